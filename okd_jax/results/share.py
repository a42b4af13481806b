"""Decides which cell of a comparison a worker trains next.

Workers do not communicate. Each takes a cell whose folder it can lock, and sees
in the folders which cells the others have finished.
"""

import collections
from collections.abc import Callable, Sequence
import contextlib
import datetime
import logging
import time
import traceback

import jax

from okd_jax.devices import processes
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

# Pause between two checks of cells that others train: the first, the longest.
_PAUSE_SECONDS = 0.5, 10.0
# A lock in a bucket that has not changed for this long may be abandoned, and a
# worker tries to take it over, which takes time.
_SILENT_SECONDS = 60.0


class Share:
  """The cells of a comparison that are left, as one worker sees them.

  Attributes:
    failed: by name of the cell, the reason of its failure; failures from before
      the worker started are included only if it skips them.
    still_ours: function that raises RunLockError if the lock on the last taken
      cell is lost.
  """

  def __init__(self, cells: Sequence[Cell], *, skip_failed: bool = False):
    """Reads which cells have failed before.

    Args:
      cells: cells of the comparison, with teachers before their students.
      skip_failed: whether to skip cells that have failed before; otherwise each
        is tried once more.
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
      held: stack of contexts, to which the lock is added.
      stopping: whether to stop waiting; polled.

    Returns:
      The name of the cell; empty if no cell is left, or waiting was stopped.

    Raises:
      UnreachableError: if a bucket cannot be reached.
      RunLockError: if a cell's folder cannot be locked at all.
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
    """Records the failure of a cell, also in its folder."""
    why = f"{type(error).__name__}: {error}"
    self._left.pop(cell.name, None)
    self.failed[cell.name] = why
    if jax.process_index() != 0:
      return
    _log.error("%s failed: %s", cell.name, why)
    now = datetime.datetime.now(datetime.UTC)
    trace = "".join(traceback.format_exception(error))
    files.make_folder(cell.workdir)
    text = f"{why}\n\n{trace}\nOn {processes.whoami()}, {now.isoformat()}\n"
    files.write(cell.workdir / rows.ERROR, text)

  def give_back(self, cell: Cell) -> None:
    """Returns a cell to those that are left: another run has taken it over."""
    self._left[cell.name] = cell

  def _in_order(self) -> list[Cell]:
    """The cells that are left, in the order in which to try them.

    First come those of the row of the last cell, whose step is compiled
    already; then the first cell of each row, the second of each, and so on.
    """
    places, seen = {}, collections.Counter[object]()
    for name, cell in self._left.items():
      row = cell.workdir.parent
      places[name] = row != self._row, seen[row]
      seen[row] += 1
    return sorted(self._left.values(), key=lambda cell: places[cell.name])

  def _try(self, cell: Cell, held: contextlib.ExitStack) -> bool:
    """Tries to take a cell; forgets it if there is nothing left to do."""
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
      # Not a failure of the cell, and it could not be written to its folder.
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
      ConfigError: if its teacher has failed, or its folder holds another run.
    """
    if cell.teacher in self.failed:
      # Checked here, as the remains of the teacher may look like a run.
      raise ConfigError(
        f"its teacher, {cell.teacher}, failed; train that first."
      )
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
    """Whether to try the lock, which may take a minute in a bucket."""
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
