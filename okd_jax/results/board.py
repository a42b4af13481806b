"""Progress of a comparison: a live display on a terminal, otherwise lines."""

from collections.abc import Sequence
import contextlib
import datetime
import sys
import time

import rich.console
import rich.live
import rich.text

from okd_jax.errors import UnreachableError
from okd_jax.results import rows
from okd_jax.results.grid import Cell

# State of a worker: where it runs, its cell or "", its last line of output.
State = tuple[str, str, str]


class Board:
  """Shows how many cells are done, running and failed.

  Attributes:
    left: by name, the cells that are neither finished nor failed.
    failed: by name of the cell, the reason of its failure.
  """

  def __init__(self, cells: Sequence[Cell]):
    self.left = {cell.name: cell for cell in cells}
    self.failed: dict[str, str] = {}
    self._total = len(cells)
    self._look()
    self._began, self._before = time.monotonic(), len(self.left)
    self._line, self._workers = "", list[State]()
    self._live = (
      rich.live.Live(get_renderable=self._render, refresh_per_second=4)
      if sys.stdout.isatty()
      else None
    )

  def live(self) -> contextlib.AbstractContextManager[object]:
    """A context in which the display of a terminal is redrawn."""
    return self._live or contextlib.nullcontext()

  def show(self, workers: Sequence[State], stopping: bool = False) -> None:
    """Looks into the folders of the cells and updates the display.

    Args:
      workers: states of the running workers.
      stopping: whether they were told to stop.
    """
    # Workers continue while a bucket cannot be reached, and so does this.
    with contextlib.suppress(UnreachableError):
      self._look()
    done = self._total - len(self.left) - len(self.failed)
    self._workers = list(workers)
    # A worker writes tables before it takes another cell.
    running = [cell for _, cell, _ in workers if cell in self.left]
    line = (
      f"{done} of {self._total} cells done, {len(running)} running, "
      f"{len(self.failed)} failed{', stopping' if stopping else ''}"
    )
    if self._live is None and line != self._line:
      names = f": {', '.join(running)}" if running else ""
      print(f"{line}, ETA {self._remaining()}{names}", flush=True)
    self._line = line

  def _look(self) -> None:
    for name, cell in list(self.left.items()):
      if why := rows.failure(cell):
        self.failed[name] = rows.reason(why)
      elif not rows.is_finished(cell):
        continue
      del self.left[name]

  def _remaining(self) -> str:
    ended = self._before - len(self.left)
    if not ended:
      return "-:--:--"
    pace = (time.monotonic() - self._began) / ended
    return str(datetime.timedelta(seconds=round(pace * len(self.left))))

  def _render(self) -> rich.console.RenderableType:
    lines = [f"{self._line}, ETA {self._remaining()}"]
    lines += [
      f"{place}: {cell or 'waiting'}  {last}"
      for place, cell, last in self._workers
    ]
    return rich.console.Group(
      *(
        rich.text.Text(line, no_wrap=True, overflow="ellipsis")
        for line in lines
      )
    )
