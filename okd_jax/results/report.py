"""A self-contained HTML page about runs and comparisons."""

from collections.abc import Sequence
import dataclasses
import json
import pathlib
import tempfile

from okd_jax import tasks
from okd_jax.results import (
  closer_page,
  comparison as result_tables,
  course as course_lib,
  formats,
  page,
  pictures,
  rows as results,
  together,
)
from okd_jax.results.formats import Table
from okd_jax.runs import (
  outcome,
  records,
  run as run_lib,
  spread,
  workdir as workdir_lib,
)
from okd_jax.settings import freeze
from okd_jax.storage import files
from okd_jax.storage.paths import Path
from okd_jax.tasks.figure import distinct, DIVERSITY, Figure
from okd_jax.tasks.measure import Measure


def write(workdirs: Sequence[Path], to: Path) -> None:
  """Writes the page.

  Args:
    workdirs: folders of runs or comparisons, finished or not.
    to: file to write.

  Raises:
    ConfigError: if a folder holds neither a run nor a comparison.
  """
  sections = [_together(workdirs)] if len(workdirs) > 1 else []
  for number, workdir in enumerate(workdirs):
    section = _comparison if results.exists(workdir) else run_section
    sections.append(section(workdir, f"s{number}"))
  files.make_folder(to.parent)
  files.write(to, page.page("Online knowledge distillation", sections))


def _together(workdirs: Sequence[Path]) -> str:
  shown = together.entries(workdirs)
  if len(shown) < 2:
    return ""
  made = map(formats.as_html, together.tables(shown))
  labels = "; ".join(f"{e.label}: {e.course.workdir}" for e in shown)
  drawn = _pictures(workdirs, "together")
  return page.section("Side by side", labels, [*made, drawn])


def _comparison(workdir: Path, prefix: str) -> str:
  rows = results.read(workdir)
  done = sum(row.finished for row in rows)
  about = f"A comparison: {done} of {sum(r.planned for r in rows)} runs done."
  config = json.loads(files.text(workdir / results.CONFIG))
  made = map(formats.as_html, result_tables.read(workdir))
  drawn = _pictures([workdir], prefix)
  return page.section(
    str(workdir), about, [*made, drawn], [_configuration(config)]
  )


def run_section(workdir: Path, prefix: str) -> str:
  """The section of the page about a run, or the runs of several seeds.

  Args:
    workdir: folder of the run or runs.
    prefix: prefix of identifiers, which no other section uses on this page.
  """
  runs = workdir_lib.runs(workdir)
  course = course_lib.read(workdir)
  config, paths = course.config, list(runs.values())
  seeds = f"seed {config.seed}"
  if len(runs) > 1:
    seeds = f"seeds {', '.join(map(str, runs))}"
  about = (
    f"{config.method.name}, {course.group} on {course.info.name}, {seeds}, "
    f"{config.epochs + config.extra_epochs} epochs."
  )
  if not all(outcome.finished(run_lib.about(p)[0], p) for p in paths):
    about += " Not finished."
  made = map(formats.as_html, _evaluation(paths))
  drawn = _pictures([workdir], prefix)
  looked = [
    part
    for i, path in enumerate(paths)
    for part in closer_page.parts(path, f"{prefix}_{i}")
  ]
  settings = _configuration(freeze.as_dict(config))
  return page.section(str(workdir), about, [*made, drawn, *looked], [settings])


def _pictures(workdirs: Sequence[Path], prefix: str) -> str:
  """Draws work directories and returns their pictures as HTML."""
  with tempfile.TemporaryDirectory() as folder:
    drawn = pictures.draw(workdirs, pathlib.Path(folder))
    return page.pictures(drawn, prefix)


def _configuration(config: object) -> str:
  return page.folded("Configuration", json.dumps(config, indent=2))


def _evaluation(runs: Sequence[Path]) -> list[Table]:
  """A table of the last evaluation that all runs have, of every split."""
  by_step = [dict(records.read_evaluations(path)) for path in runs]
  shared = set(by_step[0]).intersection(*by_step)
  if not shared:
    return []
  step = max(shared)
  last = distinct(spread.over([found[step] for found in by_step]))
  info = run_lib.about(runs[0])[1]
  task = tasks.load(info.task)

  def cell(of: Figure, measure: Measure) -> str:
    figure = dataclasses.replace(of, measure=measure.name)
    if figure not in last:
      return "-"
    if len(runs) > 1:
      return measure.spread(**last[figure])
    return measure.text(last[figure]["mean"])

  measured = {figure.measure for figure in last}
  shown = task.tabled(measured, info)
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
