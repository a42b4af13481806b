"""Finds the images of a prepared copy in its record files.

Without an index, all record files must be read to find them.
"""

from collections.abc import Callable
from concurrent import futures
import os
import pathlib
from typing import Any

import numpy as np

from okd_jax.data.formats import index, tfds as prepared, tfrecord as records
from okd_jax.data.formats.stored import Files
from okd_jax.errors import DataError
from okd_jax.storage import bucket, files
from okd_jax.storage.paths import Path

# Record files that are read at a time; one of a bucket is held in memory.
_ON_DISK, _IN_BUCKET = 16, 4
_ROWS = ("offset", "length", "labels")


def images(copy: prepared.Copy) -> Callable[[str], Files]:
  """Returns a function that tells where the images of a split are.

  Raises:
    DataError: if the copy is in a bucket and has no index, or if its index does
      not match its files; and later, if a record file is damaged.
  """
  known = index.records(copy.path)
  if known is None:
    if not isinstance(copy.path, pathlib.Path):
      raise DataError(
        f"{copy.path} is in a bucket and has no index, without which every "
        "process would read all of its record files at every start. Write it "
        f"once: {index.command(copy.path)}"
      )
    return lambda split: _files(copy, split, _locate(copy, split))
  there = _sizes(copy)
  then = known["sizes"]
  if there != then:
    changed = [n for n in then if n in there and there[n] != then[n]]
    problem = index.difference(list(then), list(there))
    if changed:
      problem = f"{len(changed)} of another size ({changed[0]})"
    raise index.stale(copy.path, problem)
  return lambda split: _files(
    copy, split, np.array([known["splits"][split][row] for row in _ROWS])
  )


def write_index(copy: prepared.Copy) -> Path:
  """Reads all record files of a copy, and writes an index of the images.

  Returns:
    The path of the index.

  Raises:
    DataError: if a record file is damaged.
  """
  index.remove(copy.path)
  splits = {split: _locate(copy, split, whole=True) for split in copy.shards}
  content: dict[str, Any] = {
    "sizes": _sizes(copy),
    "splits": {
      split: dict(zip(_ROWS, rows.tolist(), strict=True))
      for split, rows in splits.items()
    },
  }
  return index.write_records(copy.path, content)


def _sizes(copy: prepared.Copy) -> dict[str, int]:
  """Sizes in bytes of the record files that exist."""
  names = {name for split in copy.shards for name in copy.names(split)}
  if isinstance(copy.path, pathlib.Path):
    found = {e.name: e.stat().st_size for e in os.scandir(copy.path)}
  else:
    found = bucket.sizes_below(copy.path)
  return {name: found[name] for name in sorted(names & set(found))}


def _locate(
  copy: prepared.Copy, split: str, *, whole: bool = False
) -> np.ndarray:
  """Offset, length and label of every image of a split, int64 [3, N]."""

  def locate(name: str) -> list[tuple[int, int, int]]:
    path = copy.path / name
    try:
      with files.on_disk(path) as file:
        keys = copy.image_key, copy.label_key
        return list(records.locate(file, *keys, whole=whole))
    except (OSError, ValueError, KeyError, IndexError) as error:
      raise DataError(
        f"{path} is damaged ({error!r}); remove the folder to prepare it again."
      ) from error

  names, lengths = copy.names(split), copy.shards[split]
  at_a_time = _ON_DISK if isinstance(copy.path, pathlib.Path) else _IN_BUCKET
  # Waits for the disk more than it computes.
  with futures.ThreadPoolExecutor(at_a_time) as pool:
    found = list(pool.map(locate, names))
  for name, rows, count in zip(names, found, lengths, strict=True):
    if len(rows) != count:
      raise DataError(
        f"{copy.path / name} holds {len(rows)} examples; {count} were "
        "expected. Remove the folder to prepare it again."
      )
  flat = np.array([row for rows in found for row in rows], np.int64)
  return flat.reshape(-1, 3).T


def _files(copy: prepared.Copy, split: str, rows: np.ndarray) -> Files:
  offset, length, labels = rows
  lengths = copy.shards[split]
  return Files(
    copy.path,
    names=copy.names(split),
    file=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
    offset=offset,
    length=length,
    labels=labels.astype(np.int32),
  )
