"""One HTML page about runs and comparisons; it loads nothing."""

from collections.abc import Sequence
import dataclasses
import html
import json
import pathlib
import re
import tempfile

from okd_jax import tasks
from okd_jax.results import (
  comparison as result_tables,
  comparison_plots as compare_plots,
  formats as tables,
  plots,
  rows as results,
)
from okd_jax.results.formats import Table
from okd_jax.runs import (
  records,
  run as run_lib,
  spread,
  workdir as workdir_lib,
)
from okd_jax.settings import freeze
from okd_jax.storage import files
from okd_jax.storage.paths import Path
from okd_jax.tasks.figure import DIVERSITY, Figure
from okd_jax.tasks.task import Measure

_CSS = """
body { color: #222; background: #fff; margin: 2rem auto; max-width: 80rem;
  padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.2; }
h2 { border-top: 2px solid #0072B2; padding-top: 1rem; margin-top: 3rem;
  overflow-wrap: anywhere; }
figure { margin: 1.5rem 0; }
figcaption, .about { color: #555; font-size: 0.875rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.7rem; text-align: left; white-space: nowrap; }
thead th { border-bottom: 2px solid #222; }
tbody tr:nth-child(even) { background: #f4f6f8; }
svg { max-width: 100%; height: auto; }
pre { overflow-x: auto; font-size: 0.8125rem; }
"""


def write(workdirs: Sequence[Path], to: Path) -> None:
  """Writes the page.

  Args:
    workdirs: of runs or comparisons, finished or not.
    to: the file.

  Raises:
    ConfigError: if a folder is neither.
  """
  sections = []
  for number, workdir in enumerate(workdirs):
    section = _comparison if results.exists(workdir) else _run
    sections.append(section(workdir, f"s{number}"))
  files.make_folder(to.parent)
  files.write(
    to,
    "<!DOCTYPE html>\n"
    '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width">\n'
    f"<title>Online knowledge distillation</title>\n<style>{_CSS}</style>\n"
    "</head>\n<body>\n<h1>Online knowledge distillation</h1>\n"
    + "\n".join(sections)
    + "\n</body>\n</html>\n",
  )


def _comparison(workdir: Path, prefix: str) -> str:
  rows = results.read(workdir)
  with tempfile.TemporaryDirectory() as folder:
    files = compare_plots.plot(workdir, pathlib.Path(folder))
    pictures = _pictures(files, prefix)
  done = sum(row.finished for row in rows)
  about = f"A comparison: {done} of {sum(r.planned for r in rows)} runs done."
  config = json.loads((workdir / results.CONFIG).read_text())
  return _section(workdir, about, result_tables.read(workdir), pictures, config)


def _run(workdir: Path, prefix: str) -> str:
  runs = workdir_lib.runs(workdir)
  paths = list(runs.values())
  config, info, _ = run_lib.about(paths[0])
  seeds = f"seed {config.seed}"
  if len(runs) > 1:
    seeds = f"seeds {', '.join(map(str, runs))}"
  with tempfile.TemporaryDirectory() as folder:
    pictures = _pictures(plots.plot(workdir, pathlib.Path(folder)), prefix)
  about = (
    f"{config.method.name}, {config.peers.num_peers} {config.peers.kind} of "
    f"{config.peers.net} on {info.name}, {seeds}, "
    f"{config.epochs + config.extra_epochs} epochs."
  )
  if not all((path / "summary.json").exists() for path in paths):
    about += " Not finished."
  return _section(
    workdir, about, _evaluation(paths), pictures, freeze.as_dict(config)
  )


def _evaluation(runs: Sequence[Path]) -> list[Table]:
  """The figures of the last evaluation, of every split."""
  evaluations = [records.read_evaluations(path) for path in runs]
  if not all(evaluations):
    return []
  step = evaluations[0][-1][0]
  last = spread.over([found[-1][1] for found in evaluations])
  info = run_lib.about(runs[0])[1]
  task = tasks.load(info.task)

  def cell(of: Figure, measure: Measure) -> str:
    figure = dataclasses.replace(of, measure=measure.name)
    if figure not in last:
      return "-"
    if len(runs) > 1:
      return measure.spread(**last[figure])
    value = last[figure]["mean"]
    return f"{value:.2%}" if measure.fraction else f"{value:.4f}"

  measured = {figure.measure for figure in last}
  shown = [measure for measure in task.measures if measure.name in measured]
  lines = [
    [
      f"{figure.split}/{figure.prediction}",
      *(cell(figure, measure) for measure in shown),
    ]
    for figure in last
    if figure.measure == task.headline(info).name
  ]
  notes = [
    f"{figure.split}{', averaged' if figure.averaged else ''}: the peers' "
    f"diversity is {value['mean']:.4f}."
    for figure, value in last.items()
    if figure.measure == DIVERSITY
  ]
  heads = ["split and network", *(measure.title for measure in shown)]
  title = f"Evaluation after step {step}"
  if len(runs) > 1:
    title += f", mean ± sample standard deviation over {len(runs)} seeds"
  return [Table(title, heads, lines, notes)]


def _section(
  workdir: Path,
  about: str,
  made: Sequence[Table],
  pictures: str,
  config: object,
) -> str:
  shown = html.escape(json.dumps(config, indent=2))
  return "\n".join(
    (
      "<section>",
      f"<h2>{html.escape(str(workdir))}</h2>",
      f'<p class="about">{html.escape(about)}</p>',
      *map(tables.as_html, made),
      pictures,
      f"<details><summary>Configuration</summary><pre>{shown}</pre></details>",
      "</section>",
    )
  )


def _pictures(files: Sequence[Path], prefix: str) -> str:
  drawn = []
  for path in files:
    if path.suffix == ".svg":
      inline = _inline(
        path.read_text(encoding="utf-8"), f"{prefix}-{path.stem}"
      )
      drawn.append(f"<figure>\n{inline}\n</figure>")
  return "\n".join(drawn)


def _inline(svg: str, name: str) -> str:
  """An SVG file as a part of a page with several of them.

  Args:
    svg: as Matplotlib writes it.
    name: of the picture, for those who cannot see it; unique on the page.
  """
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
  unique = re.sub(r"[^\w-]", "_", name)
  svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{unique}-", svg)
  label = html.escape(name.partition("-")[2].replace("_", " "), quote=True)
  return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
