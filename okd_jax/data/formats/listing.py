"""Where the images of a large data set lie on disk.

Every image can be read by itself, from a file of its own or from the middle of
a record file.
"""

from concurrent import futures
import dataclasses
import os
import pathlib

import numpy as np

from okd_jax.data.formats import (
  finder,
  fingerprint,
  tfds as prepared,
  tfrecord as records,
)
from okd_jax.data.info import (
  check_every_class,
  check_labels,
  DataInfo,
  DataSet,
  may_flip,
)
from okd_jax.errors import DataError

# Those of ImageNet, which pictures of anything share well enough.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_WHOLE = -1


@dataclasses.dataclass(frozen=True)
class Files:
  """Where the encoded images of a split are.

  Attributes:
    paths: the files.
    file: int32 [N], which of them holds an image.
    offset: int64 [N], where in the file it begins.
    length: int64 [N], its bytes; -1 is the whole file.
    labels: int32 [N].
    groups: as of `okd_jax.data.info.Split`.
  """

  paths: tuple[pathlib.Path, ...]
  file: np.ndarray
  offset: np.ndarray
  length: np.ndarray
  labels: np.ndarray
  groups: np.ndarray | None = None

  def read(self, row: int) -> bytes:
    """Returns an image as it is stored."""
    path, length = self.paths[self.file[row]], int(self.length[row])
    if length == _WHOLE:
      return path.read_bytes()
    with path.open("rb") as file:
      return os.pread(file.fileno(), length, int(self.offset[row]))

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
    rows = {
      name: np.concatenate([getattr(self, name), getattr(other, name)])
      for name in ("offset", "length", "labels")
    }
    file = np.concatenate([self.file, other.file + len(self.paths)])
    return Files(self.paths + other.paths, file.astype(np.int32), **rows)


class Listing(DataSet[Files]):
  """Pictures on disk."""


def from_folder(path: str, image_size: int, test_fraction: float) -> Listing:
  """Lists a folder of class folders, of the structure of `folder.read`."""
  found = finder.find(path)
  listed = {
    split: _whole_files(classes) for split, classes in found.splits.items()
  }
  validation = listed.pop(finder.VALIDATION, None)
  train, *rest = listed.values()
  listing = _list(
    f"folder:{path}", train, rest, found.class_names, image_size, test_fraction
  )
  listing = dataclasses.replace(
    listing,
    notes=found.notes,
    files=fingerprint.describe(found.root, found.files, {}),
  )
  if validation is None:
    return listing
  return dataclasses.replace(
    listing,
    train=listing.train.join(validation),
    num_validation=len(validation.labels),
  )


def from_copy(
  name: str, copy: prepared.Copy, image_size: int, test_fraction: float
) -> Listing:
  """Finds the images in a copy that TensorFlow Datasets has prepared."""
  train = _in_records(copy, "train")
  rest: list[Files] = []
  for split in ("test", "validation"):
    if split in copy.shards and not rest:
      found = _in_records(copy, split)
      # The publisher of ImageNet keeps the labels of its test split.
      if (found.labels >= 0).all():
        rest.append(found)
  return _list(name, train, rest, copy.class_names, image_size, test_fraction)


def _list(name, train, rest, class_names, image_size, test_fraction):
  if rest:
    test = rest[0]
  else:
    kept, held_out = prepared.hold_out_rows(train.labels, test_fraction)
    train, test = train.take(kept), train.take(held_out)
  for split, files in (("train", train), ("test", test)):
    check_labels(f"{name}/{split}", files.labels, len(class_names))
  check_every_class(name, train.labels, class_names)
  info = DataInfo(
    name=name,
    num_classes=len(class_names),
    image_shape=(image_size, image_size, 3),
    mean=_MEAN,
    std=_STD,
    pad=0,
    flip=may_flip(name),
    num_train=len(train.labels),
    num_test=len(test.labels),
    class_names=class_names,
    resized_crop=True,
  )
  return Listing(info, train, test)


def _whole_files(classes: dict[str, list[pathlib.Path]]) -> Files:
  sizes = [len(files) for files in classes.values()]
  count = sum(sizes)
  return Files(
    paths=tuple(file for files in classes.values() for file in files),
    file=np.arange(count, dtype=np.int32),
    offset=np.zeros(count, np.int64),
    length=np.full(count, _WHOLE, np.int64),
    labels=np.repeat(np.arange(len(classes), dtype=np.int32), sizes),
  )


def _in_records(copy: prepared.Copy, split: str) -> Files:
  lengths = copy.shards[split]
  paths = tuple(
    copy.path
    / f"{copy.file_name}-{split}.tfrecord-{i:05d}-of-{len(lengths):05d}"
    for i in range(len(lengths))
  )

  def locate(path):
    try:
      return list(records.locate(path, copy.image_key, copy.label_key))
    except (OSError, ValueError, KeyError, IndexError) as error:
      raise DataError(
        f"{path} is damaged ({error!r}); remove the folder to prepare it again."
      ) from error

  # Waits for the disk more than it computes.
  with futures.ThreadPoolExecutor(16) as pool:
    found = list(pool.map(locate, paths))
  for path, rows, count in zip(paths, found, lengths, strict=True):
    if len(rows) != count:
      raise DataError(
        f"{path} holds {len(rows)} examples; {count} were expected. Remove "
        "the folder to prepare it again."
      )
  flat = np.array([row for rows in found for row in rows], np.int64)
  offset, length, labels = flat.reshape(-1, 3).T
  return Files(
    paths=paths,
    file=np.repeat(np.arange(len(paths), dtype=np.int32), lengths),
    offset=offset,
    length=length,
    labels=labels.astype(np.int32),
  )
