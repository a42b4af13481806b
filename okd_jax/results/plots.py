"""Pictures of a run, in colours that colour-blind people can tell apart."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from okd_jax import tasks
from okd_jax.results import curves as curves_lib
from okd_jax.results.curves import Curve, draw
from okd_jax.runs import (
  records as records_lib,
  run as run_lib,
  workdir as workdir_lib,
)
from okd_jax.settings import config as config_lib
from okd_jax.storage import files
from okd_jax.storage.paths import Path
from okd_jax.tasks.figure import (
  DIVERSITY,
  Figure as Measured,
  is_reference,
  LEADER,
  parse_element,
  peer_index,
  PEERS_MEAN,
)
from okd_jax.tasks.task import Measure

# Okabe and Ito, "Color Universal Design", 2008; yellow, faint on white, last.
COLORS = (
  "#0072B2",
  "#E69F00",
  "#009E73",
  "#CC79A7",
  "#56B4E9",
  "#D55E00",
  "#F0E442",
)
_BLACK = "#000000"
_STYLES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Of a training record, what is neither a loss term nor a figure of the task.
_NO_TERMS = ("loss", "learning_rate", "rampup", "gradient_norm")
_PER_ROW = 4
STYLE: Any = {
  "axes.grid": True,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "font.size": 11,
  "grid.color": "#DDDDDD",
  "grid.linewidth": 0.6,
  "legend.frameon": False,
  "lines.linewidth": 1.6,
  "svg.hashsalt": "okd_jax",  # equal runs give equal files
}


def plot(workdir: Path, to: Path | None = None) -> list[Path]:
  """Draws the curves of a run, finished or not.

  Of several seeds the curves are means, with bands of the sample standard
  deviation, as far as all seeds have come.

  Args:
    workdir: of the run, or of the runs of several seeds.
    to: folder for the pictures; `plots` in the work directory by default.

  Returns:
    The files written, a PNG and an SVG of each of: the loss terms (`loss`);
    the task's headline of leader, peers and group predictions (`accuracy`); how
    far the peers are apart (`diversity`); and every summary of the method by
    name, such as `attention`.

  Raises:
    ConfigError: if there is no run.
  """
  runs = list(workdir_lib.runs(workdir).values())
  config, info, train_size = run_lib.about(runs[0])
  epochs_a_step = config.batch_size / train_size
  trained = curves_lib.of_runs(list(map(_terms, runs)), epochs_a_step)
  evaluations = list(map(records_lib.read_evaluations, runs))
  evaluated = curves_lib.of_runs(evaluations, epochs_a_step)
  title = (
    f"{config.method.name}, {config.peers.num_peers} {config.peers.kind} of "
    f"{config.peers.net} on {info.name}"
  )
  if len(runs) > 1:
    title += f": mean and deviation over {len(runs)} seeds"
  method = config_lib.make_method(config)
  leader = range(config.peers.num_peers)[method.leader]
  task = tasks.load(info.task)
  headline = task.headline(info)
  with mpl.rc_context(STYLE):
    figures = {
      "loss": _loss(trained, task.in_step(info), title),
      headline.name: _headlines(evaluated, headline, leader, title),
      "diversity": _diversity(evaluated, title),
    }
    for name in _summaries(trained):
      figures[name] = _summary(trained, name, title)
    return save(figures, to or workdir / "plots")


def save(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
  """Writes figures as PNG and SVG.

  Args:
    figures: by name of file.
    folder: made if it is not there.

  Returns:
    The files.
  """
  files.make_folder(folder)
  written = []
  for name, figure in figures.items():
    for suffix, options in (
      ("png", {"dpi": 150}),
      ("svg", {"metadata": {"Date": None}}),
    ):
      written.append(folder / f"{name}.{suffix}")
      with written[-1].open("wb") as file:
        figure.savefig(file, format=suffix, **options)
  return written


def _terms(workdir: Path) -> curves_lib.Records:
  """What a run has recorded of training."""
  return [
    (record.pop("step"), record)
    for record in records_lib.read_metrics(workdir)
    if record.pop("kind") == "train"
  ]


def _panels(title: str, count: int, label: str) -> tuple[Figure, list[Axes]]:
  columns = min(count, _PER_ROW)
  rows = -(-count // columns)
  width = 8.0 if columns == 1 else 1.8 + 3.2 * columns
  figure = Figure(figsize=(width, 1.2 + 3.2 * rows), layout="constrained")
  axes = figure.subplots(
    rows, columns, sharex=True, sharey=True, squeeze=False
  ).ravel()
  for panel in axes[count:]:
    panel.remove()
  figure.suptitle(title)
  figure.supxlabel("epoch")
  figure.supylabel(label)
  return figure, list(axes[:count])


def _legend(figure: Figure, panel: Axes) -> None:
  handles, labels = panel.get_legend_handles_labels()
  if len(handles) > 1:
    figure.legend(handles, labels, loc="outside right center")


def line_look(i: int) -> dict[str, Any]:
  """Colour, and beyond the number of colours a style, of line i."""
  return {
    "color": COLORS[i % len(COLORS)],
    "linestyle": _STYLES[i // len(COLORS) % len(_STYLES)],
  }


def _loss(curves: Mapping[str, Curve], in_step: Measure, title: str) -> Figure:
  figure, (panel,) = _panels(title, 1, "loss term, summed over peers")
  if "loss" in curves:
    draw(panel, curves["loss"], color=_BLACK, linewidth=2.4, label="sum")
  others = (*_NO_TERMS, in_step.name)
  terms = [n for n in curves if n not in others and not parse_element(n)[1]]
  for i, name in enumerate(terms):
    look = line_look(i) | {"marker": MARKERS[i % len(MARKERS)], "markersize": 4}
    every = max(1, len(curves[name].epochs) // 10)
    draw(panel, curves[name], **look, markevery=every, label=name)
  # Terms differ by orders of magnitude.
  panel.set_yscale("log", nonpositive="mask")
  _legend(figure, panel)
  return figure


def _headlines(
  curves: Mapping[Measured, Curve], headline: Measure, leader: int, title: str
) -> Figure:
  # What the task compares with does not change; tables have it.
  curves = {f: curve for f, curve in curves.items() if not is_reference(f.who)}
  splits = list(
    dict.fromkeys(f.split for f in curves if f.measure == headline.name)
  ) or ["test"]
  unit = " (%)" if headline.fraction else ""
  figure, panels = _panels(title, len(splits), f"{headline.words}{unit}")
  for split, panel in zip(splits, panels, strict=True):
    panel.set_title(split)
    shown = {
      f: curve.scaled(headline.scaled(1.0))
      for f, curve in curves.items()
      if (f.split, f.measure) == (split, headline.name)
    }
    if shown:
      _draw_everybody(shown, leader, panel)
      _set_range(shown, headline, panel)
  _legend(figure, panels[0])
  return figure


def _draw_everybody(
  curves: Mapping[Measured, Curve], leader: int, panel: Axes
) -> None:
  """Leader, group predictions and peers, of one split."""
  averaged = any(f.averaged and peer_index(f.who) == leader for f in curves)
  deployed = f"peer {leader}, averaged" if averaged else f"peer {leader}"
  for figure, curve in curves.items():
    if figure.who == LEADER:
      draw(
        panel,
        curve,
        color=_BLACK,
        linewidth=2.4,
        label=f"leader ({deployed})",
        zorder=3,
      )
  groups = [
    f
    for f in curves
    if f.who not in (LEADER, PEERS_MEAN) and peer_index(f.who) is None
  ]
  for i, figure in enumerate(groups):
    draw(
      panel,
      curves[figure],
      color="#D55E00",
      linestyle=_STYLES[1 + i % (len(_STYLES) - 1)],
      linewidth=2.2,
      label=figure.prediction,
    )
  for figure, curve in curves.items():
    peer = peer_index(figure.who)
    # The leader is drawn already, unless it is an average.
    if peer is None or figure.averaged or (peer == leader and not averaged):
      continue
    draw(panel, curve, **line_look(peer), label=f"peer {peer}")


def _set_range(
  curves: Mapping[Measured, Curve], headline: Measure, panel: Axes
) -> None:
  # The first epochs would squeeze the rest into a line.
  values = [curve.values for curve in curves.values()]
  later = np.concatenate([y[len(y) // 5 :] for y in values])
  later = later[np.isfinite(later)]
  if not len(later):
    return
  low, high = later.min(), later.max()
  margin = 0.05 * max(high - low, 1.0)
  most = 100.0 if headline.fraction else np.inf
  panel.set_ylim(max(0.0, low - margin), min(most, high) + margin)


def _diversity(curves: Mapping[Measured, Curve], title: str) -> Figure:
  figure, (panel,) = _panels(title, 1, "mean distance between two peers")
  shown = [f for f in curves if f.measure == DIVERSITY]
  for i, measured in enumerate(shown):
    averaged = ", averaged" if measured.averaged else ""
    draw(
      panel, curves[measured], **line_look(i), label=measured.split + averaged
    )
  if len(shown) == 1:
    panel.set_title(shown[0].split)
  panel.set_ylim(bottom=0)
  _legend(figure, panel)
  return figure


def _summaries(curves: Mapping[str, Curve]) -> list[str]:
  """The method's summaries, which have an index an element."""
  elements = map(parse_element, curves)
  return list(dict.fromkeys(name for name, index in elements if index))


def _summary(curves: Mapping[str, Curve], name: str, title: str) -> Figure:
  """One panel for each first index of a matrix; one for a vector."""
  panels: dict[tuple[int, ...], dict[int, Curve]] = {}
  for path, curve in curves.items():
    summary, index = parse_element(path)
    if summary == name and index:
      panels.setdefault(index[:-1], {})[index[-1]] = curve
  figure, axes = _panels(title, len(panels), f"{name}, mean over the batch")
  for (of, lines), panel in zip(panels.items(), axes, strict=True):
    if of:
      panel.set_title(f"{name} of peer {', '.join(map(str, of))}")
    for last, curve in lines.items():
      # Weights add up to one, so lines often lie on each other.
      look = line_look(last) | {"linestyle": _STYLES[last % len(_STYLES)]}
      draw(panel, curve, **look, label=f"peer {last}")
  _legend(figure, axes[0])
  return figure
