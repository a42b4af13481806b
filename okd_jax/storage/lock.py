"""One run at a time in one work directory."""

import abc
import os
from pathlib import Path
from types import TracebackType
from typing import Self

import filelock

from okd_jax.errors import RunLockError
from okd_jax.storage import files, owner

# What the owner of a folder says of itself.
OWNER = "run.lock.json"


class Held(abc.ABC):
  """Context manager that takes something for this process."""

  @abc.abstractmethod
  def acquire(self) -> None:
    """Takes it; raises InUseError if another run has it."""

  @abc.abstractmethod
  def release(self) -> None:
    """Gives it back; does nothing if it is not held."""

  def __enter__(self) -> Self:
    self.acquire()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    self.release()


class RunLock(Held):
  """Context manager that holds a work directory for this process.

  The operating system releases the lock when its process ends in any way; the
  text that is written with it only names the owner. If there are several
  processes, only process 0 takes it.

  Files that killed writes left in the folder long ago are removed.

  Attributes:
    workdir: the work directory, created if it does not exist.
  """

  def __init__(self, workdir: str | os.PathLike[str]):
    self.workdir = Path(workdir)
    self._lock = filelock.FileLock(self.workdir / "run.lock")
    self._owner = self.workdir / OWNER

  def acquire(self) -> None:
    """Takes the lock; raises InUseError, at once, if another run has it."""
    try:
      self.workdir.mkdir(parents=True, exist_ok=True)
      self._take()
    except filelock.Timeout:
      raise owner.in_use(self.workdir, self._said()) from None
    except OSError as error:
      raise RunLockError(
        f"{self.workdir} cannot be locked: {error}. Choose another workdir."
      ) from error

  def _take(self) -> None:
    self._lock.acquire(blocking=False)
    try:
      files.write(self._owner, owner.content() + "\n")
    except OSError:
      self._lock.release()
      raise
    files.sweep(self.workdir)

  def release(self) -> None:
    """Gives the lock back; does nothing if it is not held."""
    if self._lock.is_locked:
      try:
        self._owner.unlink(missing_ok=True)
      finally:
        self._lock.release()

  def _said(self) -> str | None:
    try:
      return self._owner.read_text()
    except (OSError, ValueError):
      return None
