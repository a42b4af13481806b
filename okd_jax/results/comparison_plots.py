"""Pictures of a comparison."""

from collections.abc import Sequence
import functools

import matplotlib as mpl
from matplotlib.figure import Figure
import numpy as np

from okd_jax.results import canvas, rows as results
from okd_jax.results.rows import Row
from okd_jax.storage.paths import Path

_SHOWN = ("deployed", "peers_mean", "ensemble")


def plot(workdir: Path, to: Path | None = None) -> list[Path]:
  """Draws a comparison, finished or not.

  Args:
    workdir: work directory of the comparison.
    to: folder for the pictures; `plots` in the work directory by default.

  Returns:
    The files written, for every network and each as PNG and SVG: the headline
    figure of the task under its name (`accuracy_<network>` in classification),
    and the diversity of the peers during training (`diversity_<network>`).
  """
  rows = results.read(workdir)
  figures = {}
  with mpl.rc_context(canvas.STYLE):
    for net in dict.fromkeys(row.net for row in rows):
      of_net = [row for row in rows if row.net == net and row.finished]
      name = net.replace("/", "_")
      if any(row.headlines for row in of_net):  # empty without test data
        figures[f"{of_net[0].measure.name}_{name}"] = _headlines(of_net)
      if any(row.diversity for row in of_net):
        figures[f"diversity_{name}"] = _diversity(of_net)
    return canvas.save(figures, to or workdir / "plots")


def _headlines(rows: Sequence[Row]) -> Figure:
  figure = Figure(figsize=(8.5, 1.6 + 0.6 * len(rows)), layout="constrained")
  panel = figure.subplots()
  height = 0.8 / len(_SHOWN)
  measure = rows[0].measure
  low, high = np.inf, -np.inf
  for i, who in enumerate(_SHOWN):
    for line, row in enumerate(rows):
      if (who, "last") not in row.headlines:
        continue
      shown = row.headlines[who, "last"]
      std = shown.std or 0.0
      low, high = min(low, shown.mean - std), max(high, shown.mean + std)
      panel.barh(
        line + (i - 1) * height,
        shown.mean,
        height,
        xerr=shown.std,
        color=canvas.COLORS[i],
        error_kw={"capsize": 2.5, "elinewidth": 1.0},
      )
    # Any row may lack this bar, so an empty bar carries the label.
    panel.barh(
      [np.nan], [np.nan], color=canvas.COLORS[i], label=results.WHO[who]
    )
  margin = 0.15 * max(high - low, 1.0)
  most = 100.0 if measure.fraction else np.inf
  left = max(0.0, low - 2 * margin)
  panel.set_xlim(left, min(most, high + margin))
  panel.set_yticks(range(len(rows)), [row.name for row in rows])
  panel.invert_yaxis()
  panel.grid(visible=False, axis="y")
  panel.set_axisbelow(True)
  cut = ";\nthe axis does not start at 0" if left else ""
  panel.set_xlabel(
    f"{measure.words} at the last epoch{measure.unit}, mean and standard "
    f"deviation over seeds{cut}"
  )
  panel.set_title(_title(rows))
  figure.legend(loc="outside right center")
  return figure


def _diversity(rows: Sequence[Row]) -> Figure:
  figure = Figure(figsize=(8.5, 4.6), layout="constrained")
  panel = figure.subplots()
  several = [row for row in rows if row.diversity]
  for i, row in enumerate(several):
    # Runs may be of different length, or evaluated at other epochs.
    shared = functools.reduce(np.intersect1d, (e for e, _ in row.diversity))
    values = [v[np.isin(e, shared)] for e, v in row.diversity]
    panel.plot(
      shared,
      np.mean(values, 0),
      **canvas.line_look(i),
      marker=canvas.MARKERS[i % len(canvas.MARKERS)],
      markersize=4,
      markevery=max(1, len(shared) // 8),
      label=row.name,
    )
  panel.set_ylim(bottom=0)
  panel.set_xlabel("epoch")
  panel.set_ylabel(canvas.DISTANCE)
  panel.set_title(_title(several))
  figure.legend(loc="outside right center")
  return figure


def _title(rows: Sequence[Row]) -> str:
  peers = max(row.num_peers for row in rows)
  runs = max(row.planned for row in rows)
  data = " and ".join(dict.fromkeys(row.data for row in rows))
  return (
    f"{rows[0].net} on {data}, groups of {peers}, "
    f"{runs} seed{'s' if runs > 1 else ''}"
  )
