"""Pictures of a run, in colours that colour-blind people can tell apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path
import re
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from okd_jax.runs import records as logs, run as reopen
from okd_jax.settings import config as config_lib

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
# Of a training record, what is no loss term.
_NO_TERMS = (
  "step",
  "kind",
  "loss",
  "accuracy",
  "learning_rate",
  "rampup",
  "gradient_norm",
)
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

# Where the values were measured, in epochs, and the values.
Curve = tuple[np.ndarray, np.ndarray]


def plot(workdir: Path, to: Path | None = None) -> list[Path]:
  """Draws the curves of a run, finished or not.

  Args:
    workdir: of the run.
    to: folder for the pictures; `plots` in the work directory by default.

  Returns:
    The files written, a PNG and an SVG of each of: the loss terms (`loss`);
    the accuracy of leader, peers and group predictions (`accuracy`); how far
    the peers are apart (`diversity`); and every summary of the method by name,
    such as `attention`.

  Raises:
    ConfigError: if there is no run.
  """
  config, info, train_size = reopen.about(workdir)
  records = logs.read_metrics(workdir)
  curves = {
    kind: _curves(
      [r for r in records if r["kind"] == kind], config.batch_size / train_size
    )
    for kind in ("train", "eval")
  }
  title = (
    f"{config.method.name}, {config.peers.num_peers} {config.peers.kind} of "
    f"{config.peers.net} on {info.name}"
  )
  method = config_lib.make_method(config)
  leader = range(config.peers.num_peers)[method.leader]
  with mpl.rc_context(STYLE):
    figures = {
      "loss": _loss(curves["train"], title),
      "accuracy": _accuracy(curves["eval"], leader, title),
      "diversity": _diversity(curves["eval"], title),
    }
    for name in dict.fromkeys(
      name.split("/")[0] for name in curves["train"] if "/" in name
    ):
      figures[name] = _summary(curves["train"], name, title)
    return save(figures, to or workdir / "plots")


def save(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
  """Writes figures as PNG and SVG.

  Args:
    figures: by name of file.
    folder: made if it is not there.

  Returns:
    The files.
  """
  folder.mkdir(parents=True, exist_ok=True)
  written = []
  for name, figure in figures.items():
    for suffix, options in (
      ("png", {"dpi": 150}),
      ("svg", {"metadata": {"Date": None}}),
    ):
      written.append(folder / f"{name}.{suffix}")
      figure.savefig(written[-1], **options)
  return written


def _curves(
  records: Sequence[Mapping[str, Any]], epochs_a_step: float
) -> dict[str, Curve]:
  names = dict.fromkeys(
    name for r in records for name in r if name not in ("step", "kind")
  )
  curves = {}
  for name in names:
    points = [(r["step"], r[name]) for r in records if name in r]
    steps, values = np.array(points, float).T
    curves[name] = (steps * epochs_a_step, values)
  return curves


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


def _loss(curves: Mapping[str, Curve], title: str) -> Figure:
  figure, (panel,) = _panels(title, 1, "loss term, summed over peers")
  if "loss" in curves:
    panel.plot(*curves["loss"], color=_BLACK, linewidth=2.4, label="sum")
  terms = [n for n in curves if n not in _NO_TERMS and "/" not in n]
  for i, name in enumerate(terms):
    look = line_look(i) | {"marker": MARKERS[i % len(MARKERS)], "markersize": 4}
    every = max(1, len(curves[name][0]) // 10)
    panel.plot(*curves[name], **look, markevery=every, label=name)
  # Terms differ by orders of magnitude.
  panel.set_yscale("log", nonpositive="mask")
  _legend(figure, panel)
  return figure


def _accuracy(curves: Mapping[str, Curve], leader: int, title: str) -> Figure:
  splits = list(
    dict.fromkeys(n.split("/")[0] for n in curves if n.endswith("/accuracy"))
  ) or ["test"]
  figure, panels = _panels(title, len(splits), "accuracy (%)")
  for split, panel in zip(splits, panels, strict=True):
    panel.set_title(split)
    _accuracy_of(curves, split, leader, panel)
  _legend(figure, panels[0])
  return figure


def _accuracy_of(
  curves: Mapping[str, Curve], split: str, leader: int, panel: Axes
) -> None:
  named = {
    name.removeprefix(f"{split}/").removesuffix("/accuracy"): (x, 100 * y)
    for name, (x, y) in curves.items()
    if name.startswith(f"{split}/") and name.endswith("/accuracy")
  }
  if not named:
    return
  averaged = f"ema/peer_{leader}" in named
  deployed = f"peer {leader}, averaged" if averaged else f"peer {leader}"
  panel.plot(
    *named["leader"],
    color=_BLACK,
    linewidth=2.4,
    label=f"leader ({deployed})",
    zorder=3,
  )
  groups = [
    name
    for name in named
    if not re.fullmatch(r"(ema/)?(peer_\d+|peers_mean)|leader", name)
  ]
  for i, name in enumerate(groups):
    style = _STYLES[1 + i % (len(_STYLES) - 1)]
    panel.plot(
      *named[name], color="#D55E00", linestyle=style, linewidth=2.2, label=name
    )
  for name, curve in named.items():
    found = re.fullmatch(r"peer_(\d+)", name)
    # The leader is drawn already, unless it is an average.
    if found and (averaged or int(found[1]) != leader):
      panel.plot(*curve, **line_look(int(found[1])), label=f"peer {found[1]}")
  # The first epochs would squeeze the rest into a line.
  settled = np.concatenate([y[len(y) // 5 :] for _, y in named.values()])
  settled = settled[np.isfinite(settled)]
  if not len(settled):
    return
  low, high = settled.min(), settled.max()
  margin = 0.05 * max(high - low, 1.0)
  panel.set_ylim(max(0.0, low - margin), min(100.0, high) + margin)


def _diversity(curves: Mapping[str, Curve], title: str) -> Figure:
  figure, (panel,) = _panels(title, 1, "mean distance between two peers")
  names = [n for n in curves if n.endswith("/diversity")]
  for i, name in enumerate(names):
    panel.plot(
      *curves[name], **line_look(i), label=name.removesuffix("/diversity")
    )
  if len(names) == 1:
    panel.set_title(names[0].removesuffix("/diversity"))
  panel.set_ylim(bottom=0)
  _legend(figure, panel)
  return figure


def _summary(curves: Mapping[str, Curve], name: str, title: str) -> Figure:
  """One panel for each first index of a matrix; one for a vector."""
  panels: dict[tuple[str, ...], dict[str, Curve]] = {}
  for path, curve in curves.items():
    if path.startswith(f"{name}/"):
      *index, last = path.split("/")[1:]
      panels.setdefault(tuple(index), {})[last] = curve
  figure, axes = _panels(title, len(panels), f"{name}, mean over the batch")
  for (of, lines), panel in zip(panels.items(), axes, strict=True):
    if of:
      panel.set_title(f"{name} of peer {', '.join(of)}")
    for last, curve in lines.items():
      # Weights add up to one, so lines often lie on each other.
      look = line_look(int(last)) | {
        "linestyle": _STYLES[int(last) % len(_STYLES)]
      }
      panel.plot(*curve, **look, label=f"peer {last}")
  _legend(figure, axes[0])
  return figure
