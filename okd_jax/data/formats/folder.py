"""Folders of images, one folder a class."""

import collections
import dataclasses
import hashlib
import io
import pathlib

import numpy as np
from PIL import Image, UnidentifiedImageError

from okd_jax.data.formats import tfds as prepared
from okd_jax.data.info import describe, HostData, Split
from okd_jax.errors import DataError

_SUFFIXES = frozenset(
  ".bmp .gif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp".split()
)
# What Pillow raises on damaged files, by format.
DAMAGE = (
  UnidentifiedImageError,
  Image.DecompressionBombError,
  OSError,
  SyntaxError,
  ValueError,
)


@dataclasses.dataclass(frozen=True)
class FolderReport:
  """What `check_folder` has found.

  Attributes:
    counts: number of images by split ("all" without splits) and class.
    sizes: number of images by (width, height).
    damaged: files that cannot be decoded, with the reason.
    duplicates: groups of files with the same contents.
  """

  counts: dict[str, dict[str, int]]
  sizes: dict[tuple[int, int], int]
  damaged: dict[pathlib.Path, str]
  duplicates: tuple[tuple[pathlib.Path, ...], ...]


def read(path: str, image_size: int, test_fraction: float) -> HostData:
  """Reads a folder of images.

  Either PATH/train/CLASS/* with PATH/test/CLASS/* (or val), or PATH/CLASS/*,
  of which a fixed fraction of each class is the test split. Grey, transparent
  and palette images become RGB.

  Args:
    path: the folder.
    image_size: height and width to resize to.
    test_fraction: used where there is no test folder.

  Raises:
    DataError: naming the folder or the damaged file.
  """
  splits = find(path)
  class_names = tuple(next(iter(splits.values())))
  train, *rest = [_decode(files, image_size) for files in splits.values()]
  if rest:
    test = rest[0]
  else:
    train, test = prepared.hold_out(train, test_fraction)
  return describe(f"folder:{path}", train, test, class_names)


def find(path: str) -> dict[str, dict[str, list[pathlib.Path]]]:
  """Returns the image files by split ("all" without splits) and class.

  All in alphabetical order; training comes first.

  Raises:
    DataError: if the folder has another structure.
  """
  splits = _splits(pathlib.Path(path).expanduser())
  class_names = tuple(next(iter(splits.values())))
  for split, files in splits.items():
    if tuple(files) != class_names:
      odd = sorted(set(files) ^ set(class_names))
      raise DataError(
        f"{path} has the classes {', '.join(odd)} in one split only; {split} "
        "must have the same class folders as train. Add or remove them."
      )
  return splits


def check_folder(path: str) -> FolderReport:
  """Looks at every file of a folder of images.

  Raises:
    DataError: if there is no folder of that structure.
  """
  counts: dict[str, dict[str, int]] = {}
  sizes: collections.Counter[tuple[int, int]] = collections.Counter()
  damaged = {}
  contents = collections.defaultdict(list)
  for split, classes in _splits(pathlib.Path(path).expanduser()).items():
    counts[split] = {name: len(files) for name, files in classes.items()}
    for file in (file for files in classes.values() for file in files):
      try:
        data = file.read_bytes()
        contents[hashlib.sha256(data).digest()].append(file)
        with Image.open(io.BytesIO(data)) as image:
          image.load()
          sizes[image.size] += 1
      except DAMAGE as error:
        damaged[file] = str(error)
  duplicates = tuple(
    tuple(files) for files in contents.values() if len(files) > 1
  )
  return FolderReport(counts, dict(sizes), damaged, duplicates)


def _splits(
  path: pathlib.Path,
) -> dict[str, dict[str, list[pathlib.Path]]]:
  """Returns the image files by split and class, all in alphabetical order."""
  if not path.is_dir():
    raise DataError(
      f"{path} is not a folder; one with train/CLASS/* and test/CLASS/*, or "
      "with CLASS/*, was expected. Correct config.data.name."
    )
  train = path / "train"
  if not train.is_dir():
    return {"all": _classes(path)}
  for name in ("test", "val"):
    if (path / name).is_dir():
      return {"train": _classes(train), name: _classes(path / name)}
  return {"train": _classes(train)}


def _classes(path: pathlib.Path) -> dict[str, list[pathlib.Path]]:
  classes = {
    folder.name: sorted(
      file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES
    )
    for folder in sorted(path.iterdir())
    if folder.is_dir() and not folder.name.startswith(".")
  }
  empty = [name for name, files in classes.items() if not files]
  if len(classes) < 2 or empty:
    raise DataError(
      f"{path} has {len(classes)} class folders, of which "
      f"{', '.join(empty) or 'none'} lack images; two classes at least, each "
      f"with images ({' '.join(sorted(_SUFFIXES))}), were expected. Add images "
      "or remove the empty folders."
    )
  return classes


def _decode(classes: dict[str, list[pathlib.Path]], image_size: int) -> Split:
  files = [file for group in classes.values() for file in group]
  labels = np.repeat(
    np.arange(len(classes), dtype=np.int32),
    [len(group) for group in classes.values()],
  )
  size = (image_size, image_size)
  images = prepared.allocate(
    str(files[0].parent.parent), (len(files), *size, 3)
  )
  for image, file in zip(images, files, strict=True):
    try:
      image[...] = prepared.decode(file.read_bytes(), "RGB", size)
    except DAMAGE as error:
      raise DataError(
        f"{file} cannot be decoded ({error}); replace or remove the file."
      ) from error
  return Split(images, labels)
