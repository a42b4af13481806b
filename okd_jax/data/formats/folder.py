"""Folders of images, one folder for each class."""

import collections
from collections.abc import Sequence
import dataclasses
import hashlib
import itertools
from typing import NamedTuple
import zlib

import numpy as np

from okd_jax.data import images
from okd_jax.data.formats import (
  finder,
  fingerprint,
  index,
  stored,
  tfds as prepared,
)
from okd_jax.data.info import describe, HostData, Split
from okd_jax.errors import DataError
from okd_jax.storage import files
from okd_jax.storage.paths import Path


@dataclasses.dataclass(frozen=True)
class FolderReport:
  """The results of `check_folder`.

  Attributes:
    counts: number of images by split ("all" without splits) and class.
    sizes: number of images by (width, height), after they are turned.
    damaged: files that cannot be decoded, with the reason.
    duplicates: groups of files with the same contents.
    across: those of these groups that are in several splits or classes.
    left_out: files and folders that are not used, by reason.
  """

  counts: dict[str, dict[str, int]]
  sizes: dict[tuple[int, int], int]
  damaged: dict[Path, str]
  duplicates: tuple[tuple[Path, ...], ...]
  across: tuple[tuple[Path, ...], ...]
  left_out: dict[str, tuple[Path, ...]]

  @property
  def imbalance(self) -> float:
    """Ratio of training pictures in the most frequent and the rarest class."""
    counts = next(iter(self.counts.values())).values()
    return max(counts) / min(counts)


def read(
  path: str, image_size: int, test_fraction: float, *, exif: bool = True
) -> HostData:
  """Reads a folder of images.

  Its structure is that of `finder.find`; without a test split, a fixed fraction
  of each class becomes one. Pictures are decoded as described in `images`.

  Args:
    path: the folder.
    image_size: height and width to resize to.
    test_fraction: fraction to test on, if there is no test folder.
    exif: whether pictures are turned as their EXIF data say.

  Raises:
    DataError: naming the folder or the damaged file.
  """
  found = finder.find(path)
  train, test, validation = stored.of_folder(found, test_fraction)
  listed = train if validation is None else train.join(validation)
  sums: dict[str, int] = {}
  every, tested = (
    _decode(split, image_size, exif, sums) for split in (listed, test)
  )
  count = len(train.labels)
  trained = Split(every.images[:count], every.labels[:count])
  info = describe(f"folder:{path}", trained, tested, found.class_names).info
  return HostData(
    info,
    every,
    tested,
    len(every.labels) - count,
    found.notes,
    fingerprint.describe(found.root, found.files, sums, found.seen.sizes),
    {"train": listed.image_names, "test": test.image_names},
  )


def check_folder(
  path: str, *, exif: bool = True, write_index: bool = False
) -> FolderReport:
  """Checks every file of a folder of images, as training does.

  Args:
    path: the folder.
    exif: whether pictures are turned as their EXIF data say.
    write_index: whether to write an index, unless a file is damaged.

  Raises:
    DataError: if there is no folder of that structure.
  """
  found = finder.find(path)
  sizes: collections.Counter[tuple[int, int]] = collections.Counter()
  damaged = {}
  contents = collections.defaultdict(list)
  place = {
    name: (split, group)
    for split, classes in found.splits.items()
    for group, names in classes.items()
    for name in names
  }
  # An index has those as well that are in no split.
  every = found.seen.names if write_index else list(place)
  looks = images.in_parts(lambda names: _look(found.root, names, exif), every)
  written = []
  together = itertools.chain.from_iterable(looks)
  for name, looked in zip(every, together, strict=True):
    written.append((looked.length, looked.sum))
    if name not in place:
      continue
    if looked.digest is not None:
      contents[looked.digest].append(name)
    if looked.size is not None:
      sizes[looked.size] += 1
    else:
      damaged[found.root / name] = looked.error
  if write_index and not damaged:
    index.write_pictures(found.seen, *zip(*written, strict=True))
  duplicates = [group for group in contents.values() if len(group) > 1]
  across = [
    group for group in duplicates if len({place[name] for name in group}) > 1
  ]
  return FolderReport(
    counts={
      split: {name: len(group) for name, group in classes.items()}
      for split, classes in found.splits.items()
    },
    sizes=dict(sizes),
    damaged=damaged,
    duplicates=_paths(found.root, duplicates),
    across=_paths(found.root, across),
    left_out=found.left_out,
  )


def _paths(root: Path, groups: list[list[str]]) -> tuple[tuple[Path, ...], ...]:
  return tuple(tuple(root / name for name in group) for group in groups)


class _Looked(NamedTuple):
  """The results for one file.

  Attributes:
    digest: digest of its content; None if it cannot be read.
    size: (width, height); None if it cannot be decoded.
    error: why one of these is missing.
    length: size of the file in bytes.
    sum: CRC-32 of its content.
  """

  digest: bytes | None
  size: tuple[int, int] | None
  error: str
  length: int = 0
  sum: int = 0


def _look(root: Path, names: Sequence[str], exif: bool) -> list[_Looked]:
  contents = files.read(root, [(name, 0, -1) for name in names])
  return [_about(content, exif) for content in contents]


def _about(content: bytes | Exception, exif: bool) -> _Looked:
  if isinstance(content, OSError):
    return _Looked(None, None, str(content))
  if isinstance(content, Exception):
    raise content
  digest = hashlib.sha256(content).digest()
  about = len(content), zlib.crc32(content)
  try:
    height, width = images.decode(content, exif=exif).shape[:2]
  except images.Undecodable as error:
    return _Looked(digest, None, str(error), *about)
  return _Looked(digest, (width, height), "", *about)


def _decode(
  listed: stored.Files, image_size: int, exif: bool, sums: dict[str, int]
) -> Split:
  """Decodes all pictures; `sums` gets the CRC-32 of their files."""
  size = (image_size, image_size)
  pixels = prepared.allocate(str(listed.root), (len(listed.labels), *size, 3))

  def decode(rows: Sequence[int]) -> list[tuple[np.ndarray, int]]:
    contents = listed.read_together(rows)
    return [decode_one(*each) for each in zip(rows, contents, strict=True)]

  def decode_one(
    row: int, content: bytes | Exception
  ) -> tuple[np.ndarray, int]:
    try:
      if isinstance(content, Exception):
        raise content
      image = images.whole(content, "RGB", size, exif=exif)
    except (OSError, images.Undecodable) as error:
      raise DataError(
        f"{listed.path(row)} cannot be decoded ({error}); replace or remove "
        "the file."
      ) from error
    return image, zlib.crc32(content)

  parts = images.in_parts(decode, range(len(pixels)))
  decoded = itertools.chain.from_iterable(parts)
  for row, name, (image, crc) in zip(
    pixels, listed.image_names, decoded, strict=True
  ):
    row[...], sums[name] = image, crc
  return Split(pixels, listed.labels)
