"""Where the encoded images of a split are: whole files, or parts of files.

Every image can be read by itself.
"""

from collections.abc import Iterable, Mapping
import dataclasses
from typing import Any
import zlib

import numpy as np

from okd_jax.data.formats import finder, index, tested
from okd_jax.storage import files
from okd_jax.storage.paths import Path

_WHOLE = -1


@dataclasses.dataclass(frozen=True)
class Files:
  """Where the encoded images of a split are.

  Attributes:
    root: the folder of the files.
    names: paths of the files, relative to the root.
    file: int32 [N], number of the file that contains the image.
    offset: int64 [N], where in the file it begins.
    length: int64 [N], its size in bytes; -1 is the whole file.
    labels: int32 [N].
    sizes: sizes in bytes of whole files from an index; {} without one.
    sums: CRC-32 of these files; {} without an index.
    groups: as in `okd_jax.data.info.Split`.
  """

  root: Path
  names: tuple[str, ...]
  file: np.ndarray
  offset: np.ndarray
  length: np.ndarray
  labels: np.ndarray
  sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
  sums: Mapping[str, int] = dataclasses.field(default_factory=dict)
  groups: np.ndarray | None = None

  @property
  def image_names(self) -> tuple[str, ...]:
    """The file that contains each image, relative to the root."""
    return tuple(self.names[file] for file in self.file)

  def path(self, row: int) -> Path:
    """Returns the file that contains an image."""
    return self.root / self.names[self.file[row]]

  def read(self, row: int) -> bytes:
    """Returns an image as it is stored.

    Raises:
      DataError: if the file does not match the index.
      OSError: if it cannot be read.
      UnreachableError: if it is in a bucket that cannot be read.
    """
    (found,) = self.read_together([row])
    if isinstance(found, Exception):
      raise found
    return found

  def read_together(self, rows: Iterable[int]) -> list[bytes | Exception]:
    """Returns images as they are stored, or the errors of reading them."""
    parts = [
      (self.names[self.file[row]], int(self.offset[row]), int(self.length[row]))
      for row in rows
    ]
    found = files.read(self.root, parts)
    return [
      self._problem(*part, content) or content
      for part, content in zip(parts, found, strict=True)
    ]

  def take(self, rows: np.ndarray) -> "Files":
    """Returns some of the examples."""
    return dataclasses.replace(
      self,
      **{
        name: getattr(self, name)[rows]
        for name in ("file", "offset", "length", "labels")
      },
    )

  def join(self, other: "Files") -> "Files":
    """Returns these examples, and after them those of another split."""
    rows: dict[str, Any] = {
      name: np.concatenate([getattr(self, name), getattr(other, name)])
      for name in ("offset", "length", "labels")
    }
    file = np.concatenate([self.file, other.file + len(self.names)])
    return dataclasses.replace(
      self,
      names=self.names + other.names,
      file=file.astype(np.int32),
      **rows,
    )

  def _problem(
    self, name: str, offset: int, length: int, content: bytes | Exception
  ) -> Exception | None:
    """Why an image does not match its index; None if it does."""
    if length != _WHOLE:
      if isinstance(content, bytes) and len(content) != length:
        return index.stale(
          self.root, f"{name} ends before byte {offset + length}"
        )
      return None
    if name not in self.sums:
      return None
    if isinstance(content, FileNotFoundError):
      return index.stale(self.root, f"{name} is gone")
    if isinstance(content, bytes) and (
      len(content) != self.sizes[name] or zlib.crc32(content) != self.sums[name]
    ):
      return index.stale(self.root, f"{name} has another content")
    return None


def of_folder(
  found: finder.Found, test_fraction: float
) -> tuple[Files, Files, Files | None]:
  """The images of a folder, each in a file of its own.

  Args:
    found: the folder.
    test_fraction: fraction to test on, if there is no test folder.

  Returns:
    The splits for training, test and, if there is a folder for it, validation.
  """
  splits = {
    split: _whole_files(found, classes)
    for split, classes in found.splits.items()
  }
  validation = splits.pop(finder.VALIDATION, None)
  train, *rest = splits.values()
  test = rest[0] if rest else None
  return *train_and_test(train, test, test_fraction), validation


def train_and_test(
  train: Files, test: Files | None, test_fraction: float
) -> tuple[Files, Files]:
  """Both splits; a missing test split is a fraction of the training split."""
  if test is not None:
    return train, test
  kept, held_out = tested.hold_out_rows(train.labels, test_fraction)
  return train.take(kept), train.take(held_out)


def _whole_files(found: finder.Found, classes: finder.Classes) -> Files:
  counts = [len(names) for names in classes.values()]
  count = sum(counts)
  return Files(
    found.root,
    names=tuple(name for names in classes.values() for name in names),
    file=np.arange(count, dtype=np.int32),
    offset=np.zeros(count, np.int64),
    length=np.full(count, _WHOLE, np.int64),
    labels=np.repeat(np.arange(len(classes), dtype=np.int32), counts),
    sizes=found.seen.sizes,
    sums=found.seen.sums,
  )
