"""The `tf.data` pipeline over TensorFlow Datasets or a folder of images.

Record files allow no random access, so each split is decoded once into host
memory; order, gathering, batching and prefetching are `tf.data`'s from there.
A batch is then a function of (seed, step), and resuming decodes nothing twice.
TensorFlow is imported when a source is made, and never sees a GPU.
"""

from collections.abc import Iterator
import pathlib
import re
from typing import Unpack

import numpy as np

from okd_jax import core
from okd_jax.data import images as pictures
from okd_jax.data.formats import prepare, tfds as prepared
from okd_jax.data.info import HostData, Split
from okd_jax.data.sources import pipeline
from okd_jax.data.sources.source import (
  Batching,
  local_slots,
  Source,
  to_devices,
)
from okd_jax.errors import DataError, OkdError


def read(
  name: str,
  copy: prepared.Copy,
  image_size: int,
  test_fraction: float,
  *,
  exif: bool = True,
) -> HostData:
  """Reads a prepared copy through TensorFlow Datasets.

  The result is that of `prepared.read`, which is used for a bucket, because
  TensorFlow has a client and settings of its own there.
  """
  if not isinstance(copy.path, pathlib.Path):
    return prepared.read(name, copy, image_size, test_fraction, exif=exif)
  tfds = prepare.import_tfds()
  try:
    builder = tfds.builder_from_directory(copy.path)
    return prepared.divided(
      name,
      copy,
      lambda split: _decode(tfds, builder, copy, split, image_size, exif),
      test_fraction,
    )
  except OkdError:
    raise
  # TensorFlow's errors have no common base below Exception.
  except Exception as error:
    # Which operation of TensorFlow has failed says nothing to a user.
    why = re.sub(r"\{\{.*?\}\} ?", "", str(error))
    raise DataError(
      f"{copy.path} cannot be read ({type(error).__name__}: {why}); remove "
      "the folder to prepare it again."
    ) from error


def _decode(tfds, builder, copy, split, image_size, exif) -> Split:
  images = copy.buffer(split, image_size)
  labels = np.empty(len(images), np.int32)
  size, mode = images.shape[1:3], "L" if images.shape[-1] == 1 else "RGB"
  # One file after another, as they lie on disk: the order is then the same
  # with any number of cores.
  config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
  dataset = builder.as_dataset(
    split=split,
    shuffle_files=False,
    read_config=config,
    # Pictures are decoded here as everywhere.
    decoders={copy.image_key: tfds.decode.SkipDecoding()},
  )
  at = 0
  for examples in pipeline.iterate(dataset.batch(256)):
    stored = zip(
      examples[copy.image_key], examples[copy.label_key], strict=True
    )
    for content, label in stored:
      images[at] = pictures.whole(content, mode, size, exif=exif)
      labels[at] = label
      at += 1
  if at != len(images):
    raise DataError(
      f"{copy.path} ({split}) holds {at} examples; {len(images)} were "
      "expected. Remove the folder to prepare it again."
    )
  return Split(images, labels)


class TfdsSource(Source):
  """Streams batches from host memory; each process loads its part of them."""

  def __init__(
    self,
    data: HostData,
    positions: dict[str, np.ndarray],
    **batching: Unpack[Batching],
  ):
    super().__init__(data, positions, **batching)
    prepare.import_tfds()
    import tensorflow as tf

    self._train, self._test = (
      (tf.constant(split.images), tf.constant(split.labels))
      for split in (data.train, data.test)
    )

  def batches(self, first_step: int) -> Iterator[core.Batch]:
    import tensorflow as tf

    slots = local_slots(self._mesh, self.batch_size)
    mask = np.ones(len(slots), bool)

    def rows(step):
      # A generator data set would be simpler, but complains when the program
      # ends before it does.
      index = tf.numpy_function(
        lambda step: self.order(int(step))[slots], [step], tf.int32
      )
      return tf.ensure_shape(index, slots.shape), mask

    steps = tf.data.Dataset.counter(first_step).map(rows)
    return self._stream(steps, self._train, self.batch_size)

  def evaluation(self, split: str) -> Iterator[core.Batch]:
    import tensorflow as tf

    slots = local_slots(self._mesh, self.eval_batch_size)
    rows = [
      (rows[slots], mask[slots]) for rows, mask in self._evaluation_rows(split)
    ]
    index, mask = (np.stack(part) for part in zip(*rows, strict=True))
    examples = self._test if split == "test" else self._train
    steps = tf.data.Dataset.from_tensor_slices((index, mask))
    return self._stream(steps, examples, self.eval_batch_size)

  def _stream(self, rows, examples: tuple, size: int) -> Iterator[core.Batch]:
    """Gathers, prefetches and puts on the devices what `rows` asks for."""
    import tensorflow as tf

    images, labels = examples

    def gather(index, mask):
      return tf.gather(images, index), tf.gather(labels, index), index, mask

    dataset = pipeline.parallel_map(rows, gather)
    for image, label, index, mask in pipeline.iterate(dataset):
      local = core.Batch(image=image, target=label, index=index, mask=mask)
      yield to_devices(local, self._mesh, size)
