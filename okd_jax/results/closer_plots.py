"""Pictures of a closer look: confusions, reliability, agreement."""

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from okd_jax.results import canvas
from okd_jax.results.closer import Closer
from okd_jax.storage.paths import Path

# The greatest numbers of classes that leave room for names, and for numbers.
_NAMED, _NUMBERED = 40, 20


def plot(found: Closer, to: Path) -> list[Path]:
  """Draws a closer look.

  Args:
    found: the closer look.
    to: folder for the pictures.

  Returns:
    The files written: `confusion`, `reliability` and, of several peers,
    `agreement`, each as PNG and SVG.
  """
  with mpl.rc_context(canvas.STYLE):
    figures = {
      "confusion": _confusion(found),
      "reliability": _reliability(found),
    }
    if len(found.peers) > 1:
      figures["agreement"] = _agreement(found)
    return canvas.save(figures, to)


def _confusion(found: Closer) -> Figure:
  counts = found.matrix.sum(1, keepdims=True)
  shares = 100 * found.matrix / np.maximum(counts, 1)
  figure = Figure(figsize=_size(len(found.names)), layout="constrained")
  panel = figure.subplots()
  texts = found.matrix if len(found.names) <= _NUMBERED else None
  _matrix(figure, panel, shares, found.names, texts, "% of the class")
  panel.set_ylabel("is")
  panel.set_xlabel("taken for")
  figure.suptitle(f"Confusions, {found.about}", wrap=True)
  return figure


def _agreement(found: Closer) -> Figure:
  shares = 100 * found.agreement
  figure = Figure(figsize=_size(len(found.peers)), layout="constrained")
  panel = figure.subplots()
  few = len(found.peers) <= _NUMBERED
  texts = np.round(shares, 1) if few else None
  label = "images taken for the same class (%)"
  _matrix(figure, panel, shares, found.peers, texts, label)
  figure.suptitle(f"Agreement of peers, {found.about}", wrap=True)
  return figure


def _reliability(found: Closer) -> Figure:
  figure = Figure(figsize=(8.0, 5.6), layout="constrained")
  upper, lower = figure.subplots(
    2, 1, sharex=True, height_ratios=(3, 1), squeeze=True
  )
  upper.plot((0, 100), (0, 100), color="#888888", linestyle="--", linewidth=1)
  for i, (who, each) in enumerate(found.reliability.items()):
    known = each.count > 0
    upper.plot(
      100 * each.confidence[known],
      100 * each.accuracy[known],
      **canvas.line_look(i),
      marker=canvas.MARKERS[i],
      markersize=5,
      label=f"{who}: error {each.error:.4f}",
    )
    edges = np.linspace(0, 100, len(each.count) + 1)
    lower.stairs(each.count, edges, color=canvas.COLORS[i])
  upper.set_ylabel("right (%)")
  upper.set_ylim(0, 102)
  figure.legend(loc="outside lower center", ncols=2)
  lower.set_ylabel("images")
  lower.set_xlabel("confidence of the first choice (%)")
  lower.set_xlim(0, 100)
  figure.suptitle(f"Reliability, {found.about}", wrap=True)
  return figure


def _size(count: int) -> tuple[float, float]:
  side = min(12.0, max(4.2, 2.4 + 0.45 * count))
  return side + 1.4, side


def _matrix(
  figure: Figure,
  panel: Axes,
  shares: np.ndarray,
  names: Sequence[str],
  texts: np.ndarray | None,
  label: str,
) -> None:
  """Draws a matrix of percentages, with `texts` in its cells if given."""
  image = panel.imshow(shares, cmap="cividis", vmin=0, vmax=100)
  figure.colorbar(image, ax=panel, label=label, shrink=0.8)
  panel.grid(visible=False)
  if len(names) <= _NAMED:
    names = list(map(canvas.letters, names))
    turned = 90 if max(map(len, names)) > 3 else 0
    panel.set_xticks(range(len(names)), names, rotation=turned)
    panel.set_yticks(range(len(names)), names)
  if texts is None:
    return
  for (row, column), value in np.ndenumerate(texts):
    panel.text(
      column,
      row,
      f"{value:g}",
      ha="center",
      va="center",
      fontsize=8,
      color="#FFFFFE" if shares[row, column] < 55 else "#000001",
    )
