"""Data sets too large to hold decoded: images are decoded as they are needed.

Every image can be read by itself, so examples can come in any order, and a
resumed run reads nothing twice. What happens to an image depends on seed, step,
slot in the whole batch and view, never on the device or process that uses it.
"""

from collections.abc import Iterator
import itertools
from typing import Any, Unpack

import numpy as np

from okd_jax import core
from okd_jax.batch import has_views
from okd_jax.data import crops, headers, images
from okd_jax.data.formats import prepare
from okd_jax.data.formats.listing import Listing
from okd_jax.data.formats.stored import Files
from okd_jax.data.sources import pipeline
from okd_jax.data.sources.source import (
  Batching,
  local_slots,
  Source,
  to_devices,
)
from okd_jax.errors import DataError, OkdError, UnreachableError

# Files read in one call of Python. Threads that wait for each other to enter it
# lose more time than reading takes.
_TOGETHER = 16


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
    num_views: int | None = None,
    **batching: Unpack[Batching],
  ):
    super().__init__(data, positions, **batching)
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
      return rows, tf.repeat(step, len(slots)), tf.cast(slots, tf.int64)

    def crop(encoded, step, slot):
      cropped = [
        crops.random_crop(
          encoded,
          self.info.image_shape[0],
          crops.seed_of(self._seed, step, slot, int(view)),
          flip=self.info.flip,
        )
        for view in views
      ]
      return tf.stack(cropped) if self._num_views else cropped[0]

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
      transform: function of a file, as from `crops.prepare`, and the rest of
        the tuple.
      files: the files, which rows are numbers of.
      batches: rows and mask of each batch.
      size: size of a whole batch.
    """
    import tensorflow as tf

    exif = self.info.exif
    # TensorFlow keeps of an error no more than its text.
    lost: list[UnreachableError] = []

    def plain(rows, *rest):
      content = tf.numpy_function(
        lambda rows: _plain(files, rows, exif, lost), [rows], tf.string
      )
      return tf.ensure_shape(content, rows.shape), rows, *rest

    def prepared(row):
      content = tf.numpy_function(
        lambda row: crops.prepare(files.read(int(row)), exif=exif),
        [row],
        tf.string,
      )
      return tf.ensure_shape(content, ())

    def load(content, row, *rest):
      encoded = tf.cond(
        tf.equal(content, b""), lambda: prepared(row), lambda: content
      )
      return transform(encoded, *rest)

    local = len(local_slots(self._mesh, size))
    examples = pipeline.parallel_map(examples.batch(_TOGETHER), plain).unbatch()
    dataset = pipeline.parallel_map(examples, load)
    elements = pipeline.iterate(dataset.batch(local, drop_remainder=True))
    ahead = None
    for rows, mask in batches:
      try:
        image = next(elements)
      # TensorFlow's errors have no common base below Exception.
      except Exception as error:
        if lost:  # not asked for a second time, which takes long
          raise lost[0] from error
        raise _explain(files, rows, exif, error) from error
      batch = core.Batch(
        image=np.moveaxis(image, 1, 0) if has_views(image) else image,
        target=files.labels[rows],
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


def _plain(
  files: Files, rows: np.ndarray, exif: bool, lost: list[UnreachableError]
) -> np.ndarray:
  """Reads files that need no preparation; those that do become b"".

  Args:
    files: the files, which rows are numbers of.
    rows: rows of the images.
    exif: whether images are turned as their EXIF data say.
    lost: list that gets the error if a bucket cannot be reached.
  """
  contents = files.read_together(rows)
  lost += [each for each in contents if isinstance(each, UnreachableError)]
  if lost:
    raise lost[0]
  return np.array(
    [
      content
      # What could not be read fails again at its place in the order.
      if isinstance(content, bytes) and headers.is_plain(content, exif=exif)
      else b""
      for content in contents
    ],
    object,
  )


def _explain(files: Files, rows: Any, exif: bool, error: Exception) -> OkdError:
  """Finds the image of a batch that cannot be decoded."""
  for row in rows:
    path = files.path(row)
    try:
      content = files.read(row)
      images.decode(content, exif=exif)  # Pillow's reasons are the shorter ones
      crops.center_crop(crops.prepare(content, exif=exif), 8)
    except OkdError as problem:  # says itself what it is
      return problem
    # TensorFlow's errors have no common base below Exception.
    except Exception as damage:
      return DataError(
        f"{path} holds an image that cannot be decoded ({damage}); replace or "
        "remove it."
      )
  return DataError(f"a batch of images cannot be read ({error}).")
