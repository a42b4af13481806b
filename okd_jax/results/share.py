"""Which cells of a comparison a worker takes, beside others on the same ones.

Nothing is arranged between workers: each takes what it can lock, and what the
others have done it finds in the folders.
"""

import collections
from collections.abc import Callable, Sequence
import contextlib
import datetime
import logging
import os
import socket
import time
import traceback

import jax

from okd_jax.errors import (
  ConfigError,
  InUseError,
  RunLockError,
  UnreachableError,
)
from okd_jax.results import rows
from okd_jax.results.grid import Cell
from okd_jax.runs import workdir as workdir_lib
from okd_jax.storage import bucket, files
from okd_jax.storage.paths import Path

_log = logging.getLogger(__name__)

# Between two looks at cells that others have: at first, and at most.
_PAUSE_SECONDS = 0.5, 10.0
# A lease that stays as it is for so long is tried; taking it waits, too.
_SILENT_SECONDS = 60.0


class Share:
  """What is left of a comparison, as one worker sees it.

  Attributes:
    failed: why cells have failed since the worker began, by their names.
    still_ours: of the lock on the cell that was taken last.
  """

  def __init__(self, cells: Sequence[Cell], *, skip_failed: bool = False):
    """Looks for failures.

    Args:
      cells: teachers before their students.
      skip_failed: leave cells alone that failed before; otherwise they are
        tried again, once.
    """
    self.failed: dict[str, str] = {}
    self.still_ours: Callable[[], None] | None = None
    self._left = {cell.name: cell for cell in cells}
    self._known = {cell.name: rows.failure(cell) for cell in cells}
    if skip_failed:
      self._known = dict.fromkeys(self._known, "")
    self._row: Path | None = None
    self._marks: dict[str, tuple[int, float]] = {}

  def take(
    self, held: contextlib.ExitStack, stopping: Callable[[], bool]
  ) -> str:
    """Waits for a cell that can be trained, and locks it.

    Args:
      held: gets the lock.
      stopping: ends the wait.

    Returns:
      Its name; empty if no cell is left, or the wait was ended.

    Raises:
      UnreachableError: if a bucket cannot be reached.
      RunLockError: if a cell's folder cannot be locked by anybody.
    """
    pause, longest = _PAUSE_SECONDS
    told = False
    while self._left and not stopping():
      before = len(self._left)
      for cell in self._in_order():
        if stopping():
          break
        if self._try(cell, held):
          return cell.name
      if len(self._left) == before:
        if not told:
          names = ", ".join(self._left)
          print(f"\nWaiting for what others train: {names}", flush=True)
        told = True
        _sleep(pause, stopping)
        pause = min(1.5 * pause, longest)
    return ""

  def fail(self, cell: Cell, error: Exception) -> None:
    """Writes down why a cell has failed."""
    why = f"{type(error).__name__}: {error}"
    self._left.pop(cell.name, None)
    self.failed[cell.name] = why
    if jax.process_index() != 0:
      return
    _log.error("%s failed: %s", cell.name, why)
    where = f"host {socket.gethostname()}, process id {os.getpid()}"
    now = datetime.datetime.now(datetime.UTC)
    trace = "".join(traceback.format_exception(error))
    files.make_folder(cell.workdir)
    text = f"{why}\n\n{trace}\nOn {where}, {now.isoformat()}\n"
    files.write(cell.workdir / rows.ERROR, text)

  def give_back(self, cell: Cell) -> None:
    """Says that another run has taken a cell over."""
    self._left[cell.name] = cell

  def _in_order(self) -> list[Cell]:
    """Cells of its own row first, whose step is compiled; then one of each."""
    places, seen = {}, collections.Counter[object]()
    for name, cell in self._left.items():
      row = cell.workdir.parent
      places[name] = row != self._row, seen[row]
      seen[row] += 1
    return sorted(self._left.values(), key=lambda cell: places[cell.name])

  def _try(self, cell: Cell, held: contextlib.ExitStack) -> bool:
    """Whether the cell is ours now; forgets it if nothing is left to do."""
    if cell.teacher in self._left or not self._looks_free(cell):
      return False
    try:
      still_ours = held.enter_context(workdir_lib.lock(cell.workdir))
      if self._settled(cell):
        held.close()
        return False
    except InUseError:
      return False
    except (UnreachableError, RunLockError):
      # Says nothing about the cell, and could not be written down in it.
      raise
    except Exception as error:
      self.fail(cell, error)
      held.close()
      return False
    self.still_ours, self._row = still_ours, cell.workdir.parent
    del self._left[cell.name]
    return True

  def _settled(self, cell: Cell) -> bool:
    """Whether the cell is finished or has failed elsewhere.

    Raises:
      ConfigError: if it cannot be trained.
    """
    if cell.teacher in self.failed:
      # What the teacher left behind may look like a run.
      raise ConfigError(f"its teacher, {cell.teacher}, failed.")
    if rows.finished(cell) is not None:
      print(f"{cell.name} is finished.", flush=True)
      with bucket.reached(cell.workdir):
        (cell.workdir / rows.ERROR).unlink(missing_ok=True)
    elif (why := rows.failure(cell)) and why != self._known[cell.name]:
      self.failed[cell.name] = rows.reason(why)
    else:
      return False
    del self._left[cell.name]
    return True

  def _looks_free(self, cell: Cell) -> bool:
    """Whether it is worth while to try the lock, which may take a minute."""
    mark, now = workdir_lib.mark(cell.workdir), time.monotonic()
    if mark is None:
      return True
    if self._marks.get(cell.name, (None,))[0] != mark:
      self._marks[cell.name] = mark, now
    return now - self._marks[cell.name][1] >= _SILENT_SECONDS


def _sleep(seconds: float, stopping: Callable[[], bool]) -> None:
  until = time.monotonic() + seconds
  while not stopping() and time.monotonic() < until:
    time.sleep(0.1)
