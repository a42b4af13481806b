"""The records that a run writes: JSON lines, CSV, TensorBoard, trackers."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import csv
import io
import json
import logging
import pathlib
from types import TracebackType
from typing import Any, Literal, Protocol

from okd_jax.runs.events import Events
from okd_jax.storage import files, growing, strict_json
from okd_jax.storage.paths import Path
from okd_jax.tasks.figure import Figure, of_record

_log = logging.getLogger(__name__)

_LINES = "metrics.jsonl"
_TABLE = "metrics.csv"


class Tracker(Protocol):
  """Anything that takes metrics: an experiment tracker's thin wrapper."""

  def log(self, step: int, metrics: dict[str, float]) -> None:
    """Takes the metrics of one step."""


class Writer:
  """Context manager that writes metrics into a work directory.

  `metrics.jsonl` has one object per line and is the reliable record;
  `metrics.csv` is made from it at each evaluation and at the end. TensorBoard
  and trackers are optional: one that fails is reported once and not used again.
  """

  def __init__(
    self,
    workdir: Path,
    *,
    tensorboard: bool = True,
    resume_step: int | None = None,
    trackers: Sequence[Tracker] = (),
  ):
    """Opens the files.

    Args:
      workdir: the work directory, created if it does not exist.
      tensorboard: whether to write TensorBoard events.
      resume_step: lines up to and including this step are kept, so that the
        record is that of a run without interruption; None starts a new record.
      trackers: trackers that also get every metric.
    """
    self.workdir = workdir
    files.make_folder(workdir)
    kept = []
    if resume_step is not None:
      kept = [r for r in _records(self.workdir) if r["step"] <= resume_step]
    text = "".join(json.dumps(record) + "\n" for record in kept)
    self._lines = growing.text(self.workdir / _LINES, text)
    self._closed = False
    self._last = 0
    self._trackers: list[Tracker] = list(trackers)
    if tensorboard:
      first_step = None if resume_step is None else resume_step + 1
      try:
        self._trackers.append(Events(self.workdir, first_step))
      except ImportError:
        _log.warning(
          "No TensorBoard events: tensorboardX is not installed; "
          "pip install tensorboardX adds it."
        )

  def write(
    self,
    step: int,
    metrics: Mapping[str, Any],
    *,
    kind: Literal["train", "eval"] = "train",
  ) -> None:
    """Writes the metrics that are known after a step.

    Args:
      step: number of finished training steps.
      metrics: scalars by name; not-finite ones become null in the JSON.
      kind: "train" or "eval".
    """
    scalars = {name: float(value) for name, value in metrics.items()}
    record = {"step": int(step), "kind": kind} | scalars
    self._lines.add(strict_json.text(record, indent=None) + "\n")
    if kind == "eval" and isinstance(self.workdir, pathlib.Path):
      self._write_table()
    self._last = int(step)
    for tracker in tuple(self._trackers):
      with self._left_out_if_it_fails(tracker):
        tracker.log(int(step), dict(scalars))

  def flush(self) -> None:
    """Writes everything, or starts to where it goes to a bucket."""
    self._lines.flush()
    for tracker in tuple(self._trackers):
      if isinstance(tracker, Events):
        with self._left_out_if_it_fails(tracker):
          tracker.flush()

  @contextlib.contextmanager
  def _left_out_if_it_fails(self, tracker: Tracker) -> Iterator[None]:
    try:
      yield
    except Exception as error:
      self._trackers.remove(tracker)
      _log.warning(
        "%s failed at step %d and is left out from now on: %r; %s in %s "
        "goes on.",
        *(type(tracker).__name__, self._last, error, _LINES, self.workdir),
      )

  def close(self) -> None:
    """Writes the CSV and closes all files; may be called twice."""
    if self._closed:
      return
    self._closed = True
    try:
      self._lines.close()
      self._write_table()
    finally:
      for tracker in self._trackers:
        if isinstance(tracker, Events):
          tracker.close()

  def _write_table(self) -> None:
    records = read_metrics(self.workdir)
    columns = list(dict.fromkeys(name for r in records for name in r))
    path = self.workdir / _TABLE
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(records)
    files.write(path, text.getvalue())

  def __enter__(self) -> "Writer":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    self.close()


class NoWriter(Writer):
  """For the processes of a run that do not write; the first one does."""

  def __init__(self) -> None:
    """Opens nothing."""

  def write(
    self,
    step: int,
    metrics: Mapping[str, Any],
    *,
    kind: Literal["train", "eval"] = "train",
  ) -> None:
    """Writes nothing."""

  def flush(self) -> None:
    """Has nothing to write."""

  def close(self) -> None:
    """Closes nothing."""


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
  """Reads the metrics of a run, also while it runs.

  Args:
    workdir: work directory of the run.

  Returns:
    One dictionary per line of `metrics.jsonl`: "step", "kind" and the metrics;
    nan where a metric was not finite. Empty if there is no such file.
  """
  return [strict_json.with_nan(record) for record in _records(workdir)]


def until(workdir: Path, step: int) -> list[dict[str, Any]]:
  """Reads the metrics up to and including a step."""
  return [r for r in read_metrics(workdir) if r["step"] <= step]


def read_evaluations(
  workdir: Path,
) -> list[tuple[int, dict[Figure, float]]]:
  """Reads the evaluations of a run: the step and the figures of each."""
  return [
    (record["step"], of_record(record))
    for record in read_metrics(workdir)
    if record["kind"] == "eval"
  ]


def _records(workdir: Path) -> list[dict[str, Any]]:
  """The complete lines; a line that a killed process began is left out."""
  path = workdir / _LINES
  try:
    lines = files.content(path).splitlines()
  except (FileNotFoundError, NotADirectoryError):
    return []
  records = []
  for number, line in enumerate(lines, 1):
    try:
      record = json.loads(line)
      if type(record["step"]) is not int or record["kind"] not in (
        "train",
        "eval",
      ):
        raise ValueError("not a record")
      records.append(record)
    except (ValueError, LookupError, TypeError):
      if number < len(lines):
        _log.warning("%s line %d is damaged and left out.", path, number)
  return records
