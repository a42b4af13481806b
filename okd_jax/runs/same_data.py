"""Checks whether data are those that a run was trained on."""

from collections.abc import Sequence
import gzip
import json
import zlib

from okd_jax.data import Source
from okd_jax.data.info import DataInfo
from okd_jax.errors import DataError
from okd_jax.storage import files
from okd_jax.storage.paths import Path

# A line for every picture of a folder; absent for other data, and in runs of
# earlier releases.
_FILES = "files.jsonl.gz"
_MOST = 3
_REMEDY = (
  "Its examples would be divided otherwise, and test pictures trained on. "
  "Restore the data, say where they are with --data=PATH, or begin a new run "
  "in another --workdir."
)


def remember(workdir: Path, source: Source) -> None:
  """Records which pictures a run is trained on, if they are from a folder."""
  if source.files:
    text = "\n".join(source.files).encode()
    # The default level takes twelve times as long, and saves a tenth.
    packed = gzip.compress(text, compresslevel=1, mtime=0)
    files.write(workdir / _FILES, packed, durable=True)


def require(workdir: Path, trained: DataInfo, source: Source) -> None:
  """Refuses data that are not those of a run, or are divided differently.

  Args:
    workdir: work directory of the run.
    trained: what was known about the data when the run began.
    source: the data as they are now.

  Raises:
    DataError: saying what has changed.
  """
  where = (
    f"the data are not those that {workdir} began with ({source.info.name})"
  )
  if difference := classes(trained.class_names, source.info.class_names):
    raise DataError(f"{where}: {difference}. {_REMEDY}")
  before = _read(workdir)
  if before is not None and tuple(before) != source.files:
    changes = _changes(before, source.files)
    if changes:
      raise DataError(f"{where}: {changes}. {_REMEDY}")
  sizes = [
    (getattr(info, f"num_{split}"), split)
    for info in (trained, source.info)
    for split in ("train", "test")
  ]
  if sizes[:2] != sizes[2:]:
    then, now = (
      ", ".join(f"{count} for {split}" for count, split in part)
      for part in (sizes[:2], sizes[2:])
    )
    raise DataError(f"{where}: it had {then}, and has {now}. {_REMEDY}")


def require_order(
  workdir: Path, labels_sum: int | None, source: Source
) -> None:
  """Refuses training examples in another order than those of a run.

  Args:
    workdir: work directory of the run.
    labels_sum: `Source.labels_sum` when the run began; None if it is not known.
    source: the data as they are now.

  Raises:
    DataError: if they have another order.
  """
  if labels_sum not in (None, source.labels_sum):
    raise DataError(
      f"the data are not those that {workdir} began with ({source.info.name}): "
      "the training examples are in another order, as they are in a copy of "
      f"TensorFlow Datasets and in the publisher's files. {_REMEDY}"
    )


def classes(trained: Sequence[str], now: Sequence[str]) -> str:
  """How the classes of two data sets differ; "" if they do not."""
  if tuple(trained) == tuple(now):
    return ""
  gone = [name for name in trained if name not in now]
  new = [name for name in now if name not in trained]
  if not gone and not new:
    place = next(i for i in range(len(now)) if trained[i] != now[i])
    return (
      f"the classes are in another order: class {place} was "
      f"'{trained[place]}' and is '{now[place]}'"
    )
  parts = [
    f"{what} {_some(names)}"
    for what, names in (("gone are", gone), ("new are", new))
    if names
  ]
  return (
    f"the classes differ, {len(trained)} then and {len(now)} now: "
    + ", ".join(parts)
  )


def _read(workdir: Path) -> list[str] | None:
  path = workdir / _FILES
  try:
    return gzip.decompress(files.content(path)).decode().split("\n")
  except FileNotFoundError:
    return None
  except (OSError, EOFError, ValueError, zlib.error) as error:
    raise DataError(
      f"{path} is damaged ({error}), so it cannot be told whether the data are "
      "those of the run; remove it to go on without that check."
    ) from error


def _changes(before: Sequence[str], now: Sequence[str]) -> str:
  """What has changed; "" if only checksums were added or removed."""
  then, there = (
    {path: about for path, *about in map(json.loads, lines)}
    for lines in (before, now)
  )
  found = {
    "added": [path for path in there if path not in then],
    "removed": [path for path in then if path not in there],
    "changed": [p for p in then if p in there and _differ(then[p], there[p])],
  }
  parts = [
    f"{len(paths)} {what} ({_some(paths)})"
    for what, paths in found.items()
    if paths
  ]
  if not parts and list(then) != list(there):
    return "its pictures are in another order"
  return "; ".join(parts)


def _differ(then: Sequence[int | None], now: Sequence[int | None]) -> bool:
  """Whether sizes differ, or checksums if both are known."""
  return any(
    None not in pair and pair[0] != pair[1]
    for pair in zip(then, now, strict=True)
  )


def _some(names: Sequence[str]) -> str:
  more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
  return ", ".join(names[:_MOST]) + more
