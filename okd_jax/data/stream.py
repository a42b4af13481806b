"""Data sets too large to hold decoded: read, decoded and cropped as they go.

Every image can be read by itself, from a file of its own or from the middle of
a record file, so the order of examples is free and resuming reads nothing
twice. What happens to an image depends on seed, step, slot in the whole batch
and view, never on the device or process that it is for.
"""

from collections.abc import Iterator
from concurrent import futures
import dataclasses
import itertools
import os
import pathlib
from typing import Any

from jax.sharding import Mesh
import numpy as np

from okd_jax import core
from okd_jax.data import crops, folder, prepare, prepared, records
from okd_jax.data.errors import DataError
from okd_jax.data.info import (
  check_every_class,
  check_labels,
  DataInfo,
  may_flip,
)
from okd_jax.data.source import local_slots, Source, to_devices

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
  """

  paths: tuple[pathlib.Path, ...]
  file: np.ndarray
  offset: np.ndarray
  length: np.ndarray
  labels: np.ndarray

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


@dataclasses.dataclass(frozen=True)
class Listing:
  """A data set on disk: what `okd_jax.data.info.HostData` is in memory."""

  info: DataInfo
  train: Files
  test: Files


def from_folder(path: str, image_size: int, test_fraction: float) -> Listing:
  """Lists a folder of class folders, of the structure of `folder.read`."""
  splits = folder.find(path)
  class_names = tuple(next(iter(splits.values())))
  train, *rest = [_whole_files(classes) for classes in splits.values()]
  return _list(
    f"folder:{path}", train, rest, class_names, image_size, test_fraction
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


class StreamSource(Source):
  """Streams batches from disk; each process loads its part of them.

  Training images are [B, H, W, 3], or [P, B, H, W, 3] with views: each view is
  a crop of its own.
  """

  def __init__(
    self,
    data: Listing,
    positions: dict[str, np.ndarray],
    *,
    batch_size: int,
    eval_batch_size: int,
    seed: int,
    mesh: Mesh | None,
    num_views: int | None = None,
  ):
    super().__init__(
      data.info,
      positions,
      batch_size=batch_size,
      eval_batch_size=eval_batch_size,
      seed=seed,
      mesh=mesh,
    )
    # Imported here once, and kept off the accelerators.
    prepare.import_tfds()
    self._train, self._test = data.train, data.test
    self._num_views = num_views

  def batches(self, first_step: int) -> Iterator[core.Batch]:
    import tensorflow as tf

    slots = local_slots(self._mesh, self.batch_size)
    views = np.arange(self._num_views or 1)
    if self._num_views and self._mesh:
      views = local_slots(self._mesh, self._num_views, "peer")

    def examples(step):
      rows = tf.numpy_function(
        lambda step: self.order(int(step))[slots], [step], tf.int32
      )
      rows = tf.ensure_shape(rows, slots.shape)
      return rows, tf.repeat(step, len(slots)), slots

    def crop(encoded, step, slot):
      images = [
        crops.random_crop(
          encoded,
          self.info.image_shape[0],
          crops.fold(self._seed, step, slot, view),
          flip=self.info.flip,
        )
        for view in views
      ]
      return tf.stack(images) if self._num_views else images[0]

    steps = tf.data.Dataset.counter(first_step).map(examples).unbatch()
    rows = (self.order(step)[slots] for step in itertools.count(first_step))
    mask = np.ones(len(slots), bool)
    return self._stream(
      steps, crop, self._train, ((row, mask) for row in rows), self.batch_size
    )

  def evaluation(self, split: str) -> Iterator[core.Batch]:
    import tensorflow as tf

    slots = local_slots(self._mesh, self.eval_batch_size)
    batches = [
      (rows[slots], mask[slots]) for rows, mask in self._evaluation_rows(split)
    ]
    rows = np.concatenate([rows for rows, _ in batches])
    files = self._test if split == "test" else self._train
    size = self.info.image_shape[0]
    return self._stream(
      tf.data.Dataset.from_tensor_slices((rows,)),
      lambda encoded: crops.center_crop(encoded, size),
      files,
      iter(batches),
      self.eval_batch_size,
    )

  def _stream(
    self,
    examples: Any,
    transform: Any,
    files: Files,
    batches: Iterator[tuple[Any, Any]],
    size: int,
  ) -> Iterator[core.Batch]:
    """Reads, transforms and batches, and puts on the devices.

    Args:
      examples: `tf.data` of tuples: a row, and what `transform` needs.
      transform: of the encoded image and the rest of the tuple.
      files: what rows count.
      batches: rows and mask of each batch.
      size: of a whole batch.
    """
    import tensorflow as tf

    def load(row, *rest):
      encoded = tf.numpy_function(
        lambda row: files.read(int(row)), [row], tf.string
      )
      return transform(tf.ensure_shape(encoded, ()), *rest)

    local = len(local_slots(self._mesh, size))
    dataset = (
      examples.map(load, num_parallel_calls=tf.data.AUTOTUNE)
      .batch(local, drop_remainder=True)
      .prefetch(tf.data.AUTOTUNE)
    )
    images = dataset.as_numpy_iterator()
    ahead = None
    for rows, mask in batches:
      try:
        image = next(images)
      # TensorFlow's errors have no common base below Exception.
      except Exception as error:
        raise DataError(_explain(files, rows, error)) from error
      batch = core.Batch(
        image=np.moveaxis(image, 1, 0) if image.ndim == 5 else image,
        label=files.labels[rows],
        index=rows,
        mask=mask,
      )
      # One batch travels to the devices while they compute on the last.
      placed = to_devices(batch, self._mesh, size, self._num_views)
      if ahead is not None:
        yield ahead
      ahead = placed
    if ahead is not None:
      yield ahead


def _explain(files: Files, rows: np.ndarray, error: Exception) -> str:
  """Finds the image of a batch that cannot be decoded."""
  for row in rows:
    path = files.paths[files.file[row]]
    try:
      prepared.decode(files.read(row), "RGB", (8, 8))
    except folder.DAMAGE as damage:
      return (
        f"{path} holds an image that cannot be decoded ({damage}); replace or "
        "remove it."
      )
  return f"a batch of images cannot be read ({error})."
