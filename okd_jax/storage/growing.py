"""Files that grow while a run trains, on a disk or in a bucket."""

from collections.abc import Callable, Iterator
from concurrent import futures
import contextlib
import logging
import os
import pathlib
import time
from typing import Protocol

from okd_jax.errors import CheckpointError
from okd_jax.storage import files
from okd_jax.storage.paths import Path

_log = logging.getLogger(__name__)


class Text(Protocol):
  """A text file that grows by lines."""

  def add(self, line: str) -> None:
    """Adds a line, its end included."""

  def flush(self) -> None:
    """Makes what was added outlive a loss of power.

    On a disk it does when this returns; in a bucket, writing begins.
    """

  def close(self) -> None:
    """Writes everything; may be called twice."""


def text(path: Path, kept: str) -> Text:
  """Starts a file again with the part that is kept.

  On a disk every line is given to the operating system at once; in a bucket the
  whole file is written at intervals.
  """
  if isinstance(path, pathlib.Path):
    return _OnDisk(path, kept)
  return _InBucket(path, kept)


class Uploads:
  """Writes to a bucket at intervals, in a thread.

  Training continues while the bucket cannot be reached; a failed write is tried
  again at the next interval.
  """

  def __init__(self, write: Callable[[], None], every_secs: float = 30.0):
    self._write, self._every_secs = write, every_secs
    self._worker = futures.ThreadPoolExecutor(1, "uploads")
    self._running: futures.Future[None] | None = None
    self._started = time.monotonic()

  def changed(self) -> None:
    """Says that there is something new."""
    waits = self._running is not None and not self._running.done()
    due = time.monotonic() - self._started >= self._every_secs
    if due and not waits:
      self.now()

  def now(self) -> None:
    """Begins to write what there is, after an earlier write that still runs."""
    if self._running is not None:
      self._running.cancel()  # one that has not begun would write the same
    self._started = time.monotonic()
    self._running = self._worker.submit(self._try)

  def _try(self) -> None:
    try:
      self._write()
    except Exception as error:  # of the client and what is below it
      _log.warning("A bucket could not be written: %s; again later.", error)

  def finish(self) -> None:
    """Writes a last time, and waits for it.

    Raises:
      CheckpointError: if that failed.
    """
    try:
      self._worker.submit(self._write).result()
    except Exception as error:  # of the client and what is below it
      raise CheckpointError(
        f"A bucket could not be written ({error}); run the same command again."
      ) from error
    finally:
      self._worker.shutdown()


class _OnDisk:
  def __init__(self, path: pathlib.Path, kept: str):
    files.write(path, kept, durable=True)
    self._file = path.open("a", encoding="utf-8")

  def add(self, line: str) -> None:
    with self._writing():
      self._file.write(line)
      # To the operating system: it outlives this process, however that ends.
      self._file.flush()

  def flush(self) -> None:
    with self._writing():
      os.fsync(self._file.fileno())

  def close(self) -> None:
    with self._writing():
      self._file.close()

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      raise CheckpointError(
        f"{self._file.name} could not be written ({error}). The last "
        "checkpoint stands; run the same command again when the disk is well."
      ) from error


class _InBucket:
  def __init__(self, path: Path, kept: str):
    self._path, self._lines = path, [kept]
    self._closed = False
    self._uploads = Uploads(self._write)
    self._write()

  def _write(self) -> None:
    files.write(self._path, "".join(tuple(self._lines)))

  def add(self, line: str) -> None:
    self._lines.append(line)
    self._uploads.changed()

  def flush(self) -> None:
    self._uploads.now()

  def close(self) -> None:
    if not self._closed:
      self._closed = True
      self._uploads.finish()
