"""Folders of images, one folder a class."""

import collections
import dataclasses
import hashlib
import pathlib
import zlib

import numpy as np

from okd_jax.data import images
from okd_jax.data.formats import finder, fingerprint, tfds as prepared
from okd_jax.data.info import describe, HostData, Split
from okd_jax.devices import host
from okd_jax.errors import DataError

# Pictures that are decoded before they are asked for.
_AHEAD = 64


@dataclasses.dataclass(frozen=True)
class FolderReport:
  """What `check_folder` has found.

  Attributes:
    counts: number of images by split ("all" without splits) and class.
    sizes: number of images by (width, height), as they are turned.
    damaged: files that cannot be decoded, with the reason.
    duplicates: groups of files with the same contents.
    across: those of them that lie in several splits, or in several classes.
    left_out: files and folders that are not used, by reason.
    notes: what people may not expect.
  """

  counts: dict[str, dict[str, int]]
  sizes: dict[tuple[int, int], int]
  damaged: dict[pathlib.Path, str]
  duplicates: tuple[tuple[pathlib.Path, ...], ...]
  across: tuple[tuple[pathlib.Path, ...], ...]
  left_out: dict[str, tuple[pathlib.Path, ...]]
  notes: tuple[str, ...]

  @property
  def imbalance(self) -> float:
    """Pictures of the most frequent class to train on, to the rarest's."""
    counts = next(iter(self.counts.values())).values()
    return max(counts) / min(counts)


def read(
  path: str, image_size: int, test_fraction: float, *, exif: bool = True
) -> HostData:
  """Reads a folder of images.

  Its structure is that of `finder.find`; without a test split, a fixed fraction
  of each class becomes one. What becomes of a picture says `images`.

  Args:
    path: the folder.
    image_size: height and width to resize to.
    test_fraction: used where there is no test folder.
    exif: whether pictures are turned as EXIF says.

  Raises:
    DataError: naming the folder or the damaged file.
  """
  found = finder.find(path)
  sums: dict[pathlib.Path, int] = {}
  decoded = {
    name: _decode(classes, image_size, exif, sums)
    for name, classes in found.splits.items()
  }
  # Only training pictures and what is held out of them are left after that.
  validation = decoded.pop(finder.VALIDATION, None)
  train, *rest = decoded.values()
  if rest:
    test = rest[0]
  else:
    train, test = prepared.hold_out(train, test_fraction)
  info = describe(f"folder:{path}", train, test, found.class_names).info
  if validation is not None:
    train = Split(
      np.concatenate([train.images, validation.images]),
      np.concatenate([train.labels, validation.labels]),
    )
  return HostData(
    info,
    train,
    test,
    0 if validation is None else len(validation.labels),
    found.notes,
    fingerprint.describe(found.root, found.files, sums),
  )


def check_folder(path: str, *, exif: bool = True) -> FolderReport:
  """Looks at every file of a folder of images, as training does.

  Raises:
    DataError: if there is no folder of that structure.
  """
  found = finder.find(path)
  sizes: collections.Counter[tuple[int, int]] = collections.Counter()
  damaged = {}
  contents = collections.defaultdict(list)
  place = {}
  for split, classes in found.splits.items():
    for name, files in classes.items():
      for file in files:
        place[file] = (split, name)
  looks = host.in_threads(lambda file: _look(file, exif), place, _AHEAD)
  for file, (digest, size, error) in zip(place, looks, strict=True):
    if digest is not None:
      contents[digest].append(file)
    if size is not None:
      sizes[size] += 1
    else:
      damaged[file] = error
  duplicates = tuple(
    tuple(files) for files in contents.values() if len(files) > 1
  )
  return FolderReport(
    counts={
      split: {name: len(files) for name, files in classes.items()}
      for split, classes in found.splits.items()
    },
    sizes=dict(sizes),
    damaged=damaged,
    duplicates=duplicates,
    across=tuple(
      files for files in duplicates if len({place[file] for file in files}) > 1
    ),
    left_out=found.left_out,
    notes=found.notes,
  )


def _look(
  file: pathlib.Path, exif: bool
) -> tuple[bytes | None, tuple[int, int] | None, str]:
  """The digest of a file, (width, height), and why one of them is missing."""
  digest = None
  try:
    content = file.read_bytes()
    digest = hashlib.sha256(content).digest()
    height, width = images.decode(content, exif=exif).shape[:2]
    return digest, (width, height), ""
  except (OSError, images.Undecodable) as error:
    return digest, None, str(error)


def _decode(
  classes: finder.Classes,
  image_size: int,
  exif: bool,
  sums: dict[pathlib.Path, int],
) -> Split:
  """Decodes all pictures; `sums` gets the CRC-32 of their files."""
  files = [file for group in classes.values() for file in group]
  labels = np.repeat(
    np.arange(len(classes), dtype=np.int32),
    [len(group) for group in classes.values()],
  )
  size = (image_size, image_size)
  pixels = prepared.allocate(
    str(files[0].parent.parent), (len(files), *size, 3)
  )

  def decode(file: pathlib.Path) -> tuple[np.ndarray, int]:
    try:
      content = file.read_bytes()
      image = images.whole(content, "RGB", size, exif=exif)
    except (OSError, images.Undecodable) as error:
      raise DataError(
        f"{file} cannot be decoded ({error}); replace or remove the file."
      ) from error
    return image, zlib.crc32(content)

  decoded = host.in_threads(decode, files, _AHEAD)
  for row, file, (image, crc) in zip(pixels, files, decoded, strict=True):
    row[...], sums[file] = image, crc
  return Split(pixels, labels)
