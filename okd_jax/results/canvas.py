"""The common style of all pictures, in colours safe for the colour-blind."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import logging
import re
from typing import Any
import warnings

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
import numpy as np

from okd_jax.results.curves import Curve
from okd_jax.storage import files
from okd_jax.storage.paths import Path
from okd_jax.tasks.measure import Measure

_log = logging.getLogger(__name__)

# Okabe and Ito, "Color Universal Design", 2008. Yellow, which is faint on
# white, is last.
COLORS = (
  "#0072B2",
  "#E69F00",
  "#009E73",
  "#CC79A7",
  "#56B4E9",
  "#D55E00",
  "#F0E442",
)
BLACK = "#000000"
STYLES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# The label of an axis that shows the diversity.
DISTANCE = "mean distance between two peers"
_PER_ROW = 4
# Length of the names of lines, in characters, for which the width is made.
_USUAL = 16
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
  "text.parse_math": False,  # names of classes and folders may hold dollars
}


def letters(text: str) -> str:
  """A text that can be drawn: names of files may be invalid Unicode."""
  return text.encode(errors="backslashreplace").decode()


def save(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
  """Writes figures as PNG and SVG.

  Args:
    figures: by file name, without suffix.
    folder: folder to write to; it is made if it does not exist.

  Returns:
    The files written.
  """
  files.make_folder(folder)
  written = []
  with _one_warning_of_letters():
    for name, figure in figures.items():
      for suffix, options in (
        ("png", {"dpi": 150}),
        ("svg", {"metadata": {"Date": None}}),
      ):
        written.append(folder / f"{name}.{suffix}")
        with written[-1].open("wb") as file:
          figure.savefig(file, format=suffix, **options)
        # The layout takes most of the time, and is the same for both formats.
        figure.set_layout_engine("none")
  return written


@contextlib.contextmanager
def _one_warning_of_letters() -> Iterator[None]:
  """Warns once of all letters that the font lacks, not for each and file."""
  with warnings.catch_warnings(record=True) as raised:
    warnings.simplefilter("always")
    yield
  lacking: dict[str, None] = {}
  for each in raised:
    found = re.match(r"Glyph (\d+) .* missing from font", str(each.message))
    if found:
      lacking[chr(int(found[1]))] = None
    else:
      warnings.warn_explicit(
        each.message, each.category, each.filename, each.lineno
      )
  if lacking:
    _log.warning(
      "Pictures show boxes in place of %s, which the font lacks; choose a font "
      "that has them by font.family in a matplotlibrc file.",
      " ".join(char if char.isprintable() else repr(char) for char in lacking),
    )


def log_scale(panel: Axes) -> None:
  """Makes the vertical axis of a panel logarithmic."""
  panel.set_yscale("log", nonpositive="mask")
  # Matplotlib's own labels are math text, which `STYLE` turns off.
  panel.yaxis.set_major_formatter(_Plain())
  panel.yaxis.set_minor_formatter(_Plain(labelOnlyBase=False))


class _Plain(LogFormatter):
  def _num_to_string(self, x: float, vmin: float, vmax: float) -> str:
    return f"{x:g}"


def panels(
  title: str, count: int, label: str = "", *, alike: bool = True
) -> tuple[Figure, list[Axes]]:
  """Makes a picture of panels whose horizontal axis is the epoch.

  Args:
    title: title of the picture; may be empty.
    count: number of panels, at least 1.
    label: label of the vertical axes, if it is the same for all.
    alike: whether the panels share the scale of the vertical axis.

  Returns:
    The figure, and its panels.
  """
  columns = min(count, _PER_ROW)
  rows = -(-count // columns)
  width = 8.0 if columns == 1 else 1.8 + 3.2 * columns
  figure = Figure(figsize=(width, 1.2 + 3.2 * rows), layout="constrained")
  axes = figure.subplots(
    rows, columns, sharex=True, sharey=alike, squeeze=False
  ).ravel()
  for panel in axes[count:]:
    panel.remove()
  if title:
    figure.suptitle(letters(title))
  figure.supxlabel("epoch")
  figure.supylabel(label)
  return figure, list(axes[:count])


def legend(figure: Figure) -> None:
  """Adds a legend for the lines of all panels, if there are several."""
  named: dict[str, Any] = {}
  for panel in figure.axes:
    for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
      named.setdefault(label, handle)
  labels = list(named)
  if len(labels) > 1:
    # The figure becomes wider, so that long names do not shrink the panels.
    longer = max(0, max(map(len, labels)) - _USUAL)
    figure.set_figwidth(figure.get_figwidth() + 0.085 * longer)
    figure.legend(named.values(), labels, loc="outside right center")


def line_look(i: int) -> dict[str, Any]:
  """The look of line i: a colour and, if colours repeat, another style."""
  return {
    "color": COLORS[i % len(COLORS)],
    "linestyle": STYLES[i // len(COLORS) % len(STYLES)],
  }


def draw(panel: Axes, curve: Curve, mark: str = "o", **look: Any) -> None:
  """Draws a curve, with a band of one standard deviation on both sides.

  Args:
    panel: panel to draw in.
    curve: curve to draw.
    mark: marker for a curve of a single point, whose deviation is a bar.
    **look: keyword arguments of `Axes.plot`.
  """
  known = np.isfinite(curve.values)
  once = np.count_nonzero(known) == 1
  if once:
    look |= {"marker": mark, "markersize": 8, "linestyle": "none"}
    look["markevery"] = 1
    # The axis of epochs begins at 0 here too.
    panel.update_datalim([(0.0, float(curve.values[known][0]))])
  (line,) = panel.plot(curve.epochs, curve.values, **look)
  if curve.deviation is None:
    return
  if once:
    panel.errorbar(
      curve.epochs[known],
      curve.values[known],
      curve.deviation[known],
      color=line.get_color(),
      linestyle="none",
      capsize=4,
    )
    return
  panel.fill_between(
    curve.epochs,
    *curve.ends,
    color=line.get_color(),
    alpha=0.2,
    linewidth=0,
  )


def set_range(panel: Axes, curves: Sequence[Curve], measure: Measure) -> None:
  """Sets the vertical range of a panel without the first fifth of the curves.

  The values of the first epochs would make the rest look like a flat line. Of
  the later ones the deviations are seen, too.
  """
  later = [end[len(end) // 5 :] for curve in curves for end in curve.ends]
  values = np.concatenate([*later, []])
  values = values[np.isfinite(values)]
  if not len(values):
    return
  low, high = values.min(), values.max()
  margin = 0.05 * max(high - low, 1.0)
  most = 100.0 if measure.fraction else np.inf
  panel.set_ylim(max(0.0, low - margin), min(most, high) + margin)


def label_of(measure: Measure) -> str:
  """The label of an axis that shows a measure."""
  return f"{measure.words}{' (%)' if measure.fraction else ''}"


def label_of_gap(measure: Measure, ahead: Iterable[str]) -> str:
  """The label of an axis that shows the lead of some predictions.

  Args:
    measure: in what they lead the leader.
    ahead: names of the predictions.
  """
  unit = " (% points)" if measure.fraction else ""
  only, *others = dict.fromkeys(ahead)
  return f"{'prediction' if others else only} minus leader{unit}"
