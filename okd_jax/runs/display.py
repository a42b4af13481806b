"""The output for people: a live display on a terminal, otherwise lines."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import datetime
import re
import sys
import time
from types import TracebackType
from typing import Any
import unicodedata

import rich.box
import rich.console
import rich.live
import rich.progress
import rich.table
import rich.text

from okd_jax.tasks.figure import distinct, DIVERSITY, Figure
from okd_jax.tasks.measure import Measure
from okd_jax.training.clock import Clock

# Between plain lines within an epoch: often enough to see that it runs.
_LINE_SECONDS = 10.0

# Controls, ends of lines and paragraphs, and parts of characters.
_NO_CHARACTERS = ("Cc", "Zl", "Zp", "Cs")
# A figure, or nothing to show: aligned to the right.
_FIGURE = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?( ?(%|[kKMGT]?B|s|M|G))?|-?|nan")


class Display:
  """Context manager that shows the progress of a run.

  On a terminal one block is redrawn in place. Elsewhere a line is printed
  when an epoch begins, at the last step, and in between at most every ten
  seconds; evaluations and notes always are.
  """

  def __init__(
    self,
    clock: Clock,
    title: str,
    headline: Measure,
    in_step: Measure | None = None,
  ):
    """Shows nothing yet.

    Args:
      clock: clock of the run.
      title: title of the run.
      headline: the figure that is shown for every network and prediction.
      in_step: the figure of training batches; the headline by default.
    """
    self._headline, self._in_step = headline, in_step or headline
    self._clock, self._total = clock, clock.total_steps
    self._title = title
    self._first: tuple[int, float] | None = None
    self._printed_epoch = -1
    self._printed_at = 0.0
    self._progress, self._terms = "", ""
    self._evaluations: dict[str, str] = {}
    self._bar = rich.progress.Progress(
      rich.progress.BarColumn(), rich.progress.TaskProgressColumn()
    )
    self._task = self._bar.add_task(title, total=self._total)
    self._live = (
      rich.live.Live(get_renderable=self._render, refresh_per_second=4)
      if sys.stdout.isatty()
      else None
    )

  def update(
    self, step: int, metrics: Mapping[str, Any], images_per_second: float
  ) -> None:
    """Shows training metrics.

    Args:
      step: number of finished training steps.
      metrics: terms of the loss and other scalars by name.
      images_per_second: measured speed.
    """
    now = time.monotonic()
    epoch = self._clock.epoch(max(0, step - 1))
    self._progress = (
      f"epoch {epoch + 1}/{self._clock.epochs}  step {step}/{self._total}  "
      f"{images_per_second:,.0f} images/s  ETA {self._remaining(step, now)}"
    )
    self._terms = format_metrics(metrics, self._in_step)
    if self._live is not None:
      self._bar.update(self._task, completed=step)
    elif (
      epoch != self._printed_epoch
      or step == self._total
      or now - self._printed_at >= _LINE_SECONDS
    ):
      self._printed_epoch, self._printed_at = epoch, now
      print(f"{self._progress}  {self._terms}", flush=True)

  def evaluated(self, step: int, figures: Mapping[Figure, float]) -> None:
    """Shows the headline figures of an evaluation, and a group's diversity.

    Args:
      step: number of finished training steps.
      figures: figures of the evaluation; all others are not shown.
    """
    splits: dict[str, list[str]] = {}
    for figure, value in distinct(figures).items():
      shown = splits.setdefault(figure.split, [])
      if figure.measure == self._headline.name:
        who = figure.prediction.replace("peers_mean", "peers mean")
        shown.append(f"{who} {self._headline.text(value)}")
      elif figure.measure == DIVERSITY and not figure.averaged:
        shown.append(f"{DIVERSITY} {value:.4g}")
    for split, shown in splits.items():
      text = f"{split} at step {step}: {'  '.join(shown)}"
      self._evaluations[split] = text
      if self._live is None:
        print(text, flush=True)

  def note(self, text: str) -> None:
    """Prints a line that stays."""
    if self._live is None:
      print(text, flush=True)
    else:
      self._live.console.print(text, markup=False, highlight=False)

  def _remaining(self, step: int, now: float) -> str:
    # Counted from the first update: compilation lies before it.
    if self._first is None or step <= self._first[0]:
      self._first = (step, now)
      return "-:--:--"
    first_step, first_time = self._first
    pace = (now - first_time) / (step - first_step)
    return str(datetime.timedelta(seconds=round(pace * (self._total - step))))

  def _render(self) -> rich.console.RenderableType:
    lines = [self._progress, self._terms, *self._evaluations.values()]
    return rich.console.Group(
      rich.text.Text(self._title, style="bold"),
      self._bar.get_renderable(),
      *(rich.text.Text(line) for line in lines if line),
    )

  def __enter__(self) -> "Display":
    if self._live is None:
      print(self._title, flush=True)
    else:
      self._live.start()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    if self._live is not None:
      self._live.stop()


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
  """Shows a progress bar on a terminal, apart from the output itself.

  Args:
    what: what is counted.
    total: how many there are.

  Yields:
    A function to call with the number that was done since the last call.
  """
  with rich.progress.Progress(
    *rich.progress.Progress.get_default_columns(),
    rich.progress.MofNCompleteColumn(),
    console=rich.console.Console(stderr=True),
    disable=not sys.stderr.isatty(),
    transient=True,
  ) as bar:
    task = bar.add_task(what, total=total)
    yield lambda count: bar.advance(task, count)


def format_metrics(metrics: Mapping[str, Any], headline: Measure) -> str:
  """One line of names and values.

  Args:
    metrics: scalars by name.
    headline: the figure that has its own format.

  Returns:
    For example "loss 3.214  accuracy 45.10 %".
  """
  return "  ".join(
    f"{name} {headline.text(value)}"
    if name == headline.name
    else f"{name} {float(value):.4g}"
    for name, value in metrics.items()
  )


def _on_one_line(text: str) -> str:
  """Escapes what would move the cursor, as names of files and classes may."""
  if text.isprintable():
    return text
  return "".join(
    repr(c)[1:-1] if unicodedata.category(c) in _NO_CHARACTERS else c
    for c in text
  )


def table(
  title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
  """Prints a table, with lines on a terminal and as plain text elsewhere.

  Args:
    title: printed above it.
    columns: the headings of the columns.
    rows: the cells of each row, one for each column; shown by `str`. Columns of
      figures are aligned to the right.
  """
  cells = [[_on_one_line(str(cell)) for cell in row] for row in rows]
  for row in cells:
    if len(row) != len(columns):
      raise ValueError(
        f"row {row} has {len(row)} cells, the table has {len(columns)} "
        "columns; give one cell a column."
      )
  right = [
    bool(cells) and all(_FIGURE.fullmatch(row[i]) for row in cells)
    for i in range(len(columns))
  ]
  if sys.stdout.isatty():
    drawn = rich.table.Table(title=title, box=rich.box.SIMPLE_HEAD)
    for name, figures in zip(columns, right, strict=True):
      drawn.add_column(name, justify="right" if figures else "left")
    for row in cells:
      drawn.add_row(*(rich.text.Text(cell) for cell in row))
    rich.console.Console().print(drawn)
    return
  widths = [
    max(len(row[i]) for row in [list(columns), *cells])
    for i in range(len(columns))
  ]
  rule = ["-" * width for width in widths]
  print(f"\n{title}")
  for row in [list(columns), rule, *cells]:
    padded = (
      cell.rjust(width) if figures else cell.ljust(width)
      for cell, width, figures in zip(row, widths, right, strict=True)
    )
    print("  ".join(padded).rstrip())
  print(flush=True)
