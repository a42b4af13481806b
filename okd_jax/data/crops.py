"""Cropping and resizing of large images, inside `tf.data`.

Random crops are those of torchvision's RandomResizedCrop; evaluation uses its
Resize and CenterCrop. Pixels are those of `images.decode`; where TensorFlow
gives the same pixels, it decodes, as it is faster and can decode only a window.
TensorFlow is imported when a function is called.
"""

import math
from typing import Any

from okd_jax.data import headers, images

AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10
# Colours of a JPEG reach as far as the second next pixel, so decoding needs so
# many more than a window to give all of it as it is in the whole picture.
_SPREAD = 2
# As Pillow decodes; the other way differs by several grey levels.
_DCT = "INTEGER_ACCURATE"

# A TensorFlow tensor, or an array.
Tensor = Any


def prepare(encoded: bytes, *, exif: bool = True) -> bytes:
  """Prepares a picture's file for the functions below.

  Returns:
    The same content if TensorFlow is to decode it; otherwise the whole picture,
    decoded and stored without loss in a file that TensorFlow can decode.

  Raises:
    images.Undecodable: if it has to be decoded here and cannot be.
  """
  if headers.is_plain(encoded, exif=exif):
    return encoded
  return images.as_png(images.decode(encoded, exif=exif))


def seed_of(seed: int, step: Tensor, slot: Tensor, view: int) -> Tensor:
  """Makes the seed of a crop, int64 [2]; every crop of a run has its own.

  Args:
    seed: seed of the run.
    step: step of the run, int64.
    slot: place of the example in the whole batch, int64.
    view: number of the view.
  """
  import tensorflow as tf

  return tf.stack([step + (seed << 32), slot + (view << 32)])


def random_draws(seed: Tensor) -> tuple[Tensor, Tensor]:
  """Random numbers for `random_window`, and whether a crop is mirrored.

  Args:
    seed: a seed, as from `seed_of`.
  """
  import tensorflow as tf

  # All at once: an operation costs more than many numbers.
  draws = tf.random.stateless_uniform((4 * _ATTEMPTS + 1,), seed, alg="philox")
  return tf.reshape(draws[1:], (_ATTEMPTS, 4)), draws[0] < 0.5


def random_window(height: Tensor, width: Tensor, draws: Tensor) -> Tensor:
  """Draws where to crop.

  The area is a uniform fraction, in `AREA`, of the image's area; the ratio of
  width to height is log-uniform in `RATIO`. The first of ten attempts that fits
  is used; if none fits, the largest centred window of an allowed ratio.

  Args:
    height: height of the image, int32.
    width: width of the image, int32.
    draws: random numbers, as from `random_draws`, for area, ratio, top and left
      of each attempt.

  Returns:
    int32 [4]: top, left, height and width of the window.
  """
  import tensorflow as tf

  high, wide = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
  area = high * wide * (AREA[0] + (AREA[1] - AREA[0]) * draws[:, 0])
  low, top = (math.log(ratio) for ratio in RATIO)
  ratio = tf.exp(low + (top - low) * draws[:, 1])
  heights = tf.cast(tf.round(tf.sqrt(area / ratio)), tf.int32)
  widths = tf.cast(tf.round(tf.sqrt(area * ratio)), tf.int32)
  fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
  # The fallback is one more row, which always fits.
  heights = tf.concat(
    [heights, [tf.minimum(height, _at_least_1(wide / RATIO[0]))]], 0
  )
  widths = tf.concat(
    [widths, [tf.minimum(width, _at_least_1(high * RATIO[1]))]], 0
  )
  chosen = tf.argmax(tf.concat([fits, [True]], 0), output_type=tf.int32)
  crop_height, crop_width = heights[chosen], widths[chosen]
  rooms = tf.stack([height - crop_height, width - crop_width])
  places = tf.concat([draws[:, 2:], [[0.5, 0.5]]], 0)[chosen]
  # A draw below 1 never rounds up to the number of places.
  corner = tf.cast(places * tf.cast(rooms + 1, tf.float32), tf.int32)
  corner = tf.minimum(corner, rooms)
  return tf.concat([corner, [crop_height, crop_width]], 0)


def random_crop(
  encoded: Tensor, size: int, seed: Tensor, *, flip: bool
) -> Tensor:
  """Takes a random part of an image, resized and perhaps mirrored.

  Args:
    encoded: content of a file, as from `prepare`.
    size: height and width of the result.
    seed: a seed, as from `seed_of`.
    flip: whether to mirror with probability 1/2.

  Returns:
    uint8 [size, size, 3].
  """
  import tensorflow as tf

  draws, mirrored = random_draws(seed)

  def jpeg():
    shape = tf.io.extract_jpeg_shape(encoded)
    window = random_window(shape[0], shape[1], draws)
    return _decode_window(encoded, shape, window)

  def other():
    image = tf.io.decode_png(encoded, channels=3)
    window = random_window(tf.shape(image)[0], tf.shape(image)[1], draws)
    return tf.image.crop_to_bounding_box(image, *tf.unstack(window))

  image = _resize(tf.cond(tf.io.is_jpeg(encoded), jpeg, other), (size, size))
  image = tf.ensure_shape(image, (size, size, 3))
  if not flip:
    return image
  # A slice with a negative step would take seven times as long.
  return tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)


def center_crop(encoded: Tensor, size: int) -> Tensor:
  """Resizes an image's shorter side and takes the centre.

  Args:
    encoded: content of a file, as from `prepare`.
    size: height and width of the result; 224 is cut from a side of 256.

  Returns:
    uint8 [size, size, 3].
  """
  import tensorflow as tf

  image = _decode(encoded)
  height, width = tf.unstack(tf.shape(image)[:2])
  short = round(size * images.MARGIN)
  shorter = tf.minimum(height, width)
  top, left = (
    tf.maximum(0, side - images.LONGEST * shorter) // 2
    for side in (height, width)
  )
  image = image[top : height - top, left : width - left]
  height, width = height - 2 * top, width - 2 * left
  height, width = (short * side // shorter for side in (height, width))
  image = _resize(image, (height, width))
  # As Python's round does: to the even number.
  top, left = (
    tf.cast(tf.round((side - size) / 2), tf.int32) for side in (height, width)
  )
  return tf.ensure_shape(
    tf.image.crop_to_bounding_box(image, top, left, size, size),
    (size, size, 3),
  )


def _at_least_1(x: Tensor) -> Tensor:
  import tensorflow as tf

  return tf.maximum(1, tf.cast(tf.round(x), tf.int32))


def _decode(encoded: Tensor) -> Tensor:
  import tensorflow as tf

  return tf.cond(
    tf.io.is_jpeg(encoded),
    lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method=_DCT),
    lambda: tf.io.decode_png(encoded, channels=3),
  )


def _decode_window(encoded: Tensor, shape: Tensor, window: Tensor) -> Tensor:
  """Decodes little more than a window of a JPEG of that shape."""
  import tensorflow as tf

  first = tf.maximum(window[:2] - _SPREAD, 0)
  last = tf.minimum(window[:2] + window[2:] + _SPREAD, shape[:2])
  image = tf.image.decode_and_crop_jpeg(
    encoded, tf.concat([first, last - first], 0), channels=3, dct_method=_DCT
  )
  top, left = tf.unstack(window[:2] - first)
  return image[top : top + window[2], left : left + window[3]]


def _resize(image: Tensor, shape: Any) -> Tensor:
  import tensorflow as tf

  resized = tf.image.resize(image, shape, antialias=True)
  # Means of uint8 values cannot leave their range; the cast cuts off.
  return tf.cast(resized + 0.5, tf.uint8)
