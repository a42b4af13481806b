"""The records of a run as events of TensorBoard."""

import logging
import pathlib
import tempfile
import time

from okd_jax.errors import CheckpointError
from okd_jax.storage import files, growing
from okd_jax.storage.paths import Path

_log = logging.getLogger(__name__)

# TensorBoard sees events at least this often while a run trains.
_EVERY_SECS = 30.0


class Events:
  """A tracker that writes a file of events, and before a save all of it."""

  def __init__(self, workdir: Path, first_step: int | None):
    """Begins a new file.

    Args:
      workdir: work directory of the run.
      first_step: earlier events from this step on are hidden, as these steps
        are done again; None begins a run.

    Raises:
      ImportError: if tensorboardX is missing.
    """
    # Optional, and slow to import where TensorFlow is installed too.
    from tensorboardX import event_file_writer, proto

    self._proto, self._summary = proto.event_pb2, proto.summary_pb2.Summary
    self._events = workdir / "tensorboard"
    folder, self._uploads = self._events, None
    if not isinstance(folder, pathlib.Path):
      self._local = tempfile.TemporaryDirectory(prefix="okd_jax_")
      folder = pathlib.Path(self._local.name)
      self._uploads = growing.Uploads(self._upload, every_secs=120.0)
    if first_step is None and files.is_folder(self._events):
      first_step = 0  # a run that broke off before its first checkpoint
    folder.mkdir(parents=True, exist_ok=True)
    # In this thread, so that what was logged can be written before a save.
    self._file = event_file_writer.EventsWriter(str(folder / "events"))
    self._flushed = time.monotonic()
    if first_step is not None:
      start = self._proto.SessionLog(status=self._proto.SessionLog.START)
      self._write(first_step, session_log=start)

  def log(self, step: int, metrics: dict[str, float]) -> None:
    """Adds the metrics of one step."""
    values = [
      self._summary.Value(tag=name, simple_value=value)
      for name, value in metrics.items()
    ]
    self._write(step, summary=self._summary(value=values))
    if time.monotonic() - self._flushed > _EVERY_SECS:
      self._flush()
    if self._uploads is not None:
      self._uploads.changed()

  def flush(self) -> None:
    """Writes everything to the disk, or begins to write it to the bucket."""
    self._flush()
    if self._uploads is not None:
      self._uploads.now()

  def close(self) -> None:
    """Writes everything and closes the file."""
    try:
      self._file.close()
      if self._uploads is not None:
        self._uploads.finish()
    except (CheckpointError, OSError) as error:
      # All that counts is elsewhere, or has failed for a reason of its own.
      _log.warning("%s lacks the last events: %s", self._events, error)
    if self._uploads is not None:
      self._local.cleanup()

  def _write(self, step: int, **content: object) -> None:
    event = self._proto.Event(wall_time=time.time(), step=step, **content)
    self._file.write_event(event)

  def _flush(self) -> None:
    self._flushed = time.monotonic()
    self._file.flush()

  def _upload(self) -> None:
    for file in pathlib.Path(self._local.name).iterdir():
      files.write(self._events / file.name, file.read_bytes())
