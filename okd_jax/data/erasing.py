"""Erased parts of normalised pictures, which become the mean (zero)."""

import math

import jax
import jax.numpy as jnp

Array = jax.Array

# As in the paper: shares of the picture, and the least ratio of the sides.
_AREA, _RATIO = (0.02, 0.4), 0.3


def erase(image: Array, key: Array, probability: float) -> Array:
  """Erases a random rectangle with a probability.

  Sides that would be longer than the picture are cut to its length.

  Args:
    image: float [H, W, c].
    key: random key.
    probability: probability that something is erased.

  References:
    Zhong et al., `Random Erasing <https://arxiv.org/abs/1708.04896>`_, AAAI
    2020.
  """
  height, width, _ = image.shape
  which, area_key, ratio_key, place_key = jax.random.split(key, 4)
  area = jax.random.uniform(area_key, (), minval=_AREA[0], maxval=_AREA[1])
  limit = math.log(_RATIO)
  ratio = jnp.exp(
    jax.random.uniform(ratio_key, (), minval=limit, maxval=-limit)
  )
  area *= height * width
  tall = jnp.clip(jnp.round(jnp.sqrt(area * ratio)), 1, height)
  wide = jnp.clip(jnp.round(jnp.sqrt(area / ratio)), 1, width)
  place = jax.random.uniform(place_key, (2,))
  top = jnp.floor(place[0] * (height - tall + 1))
  left = jnp.floor(place[1] * (width - wide + 1))
  gone = _inside(image, top, top + tall, left, left + wide)
  gone &= jax.random.bernoulli(which, probability)
  return jnp.where(gone, 0, image)


def cut_out(image: Array, key: Array, side: int) -> Array:
  """Erases the part of a square around a random pixel that is in the picture.

  Args:
    image: float [H, W, c].
    key: random key.
    side: side of the square, in pixels.

  References:
    DeVries & Taylor, `Cutout <https://arxiv.org/abs/1708.04552>`_, 2017.
  """
  height, width, _ = image.shape
  row_key, column_key = jax.random.split(key)
  top = jax.random.randint(row_key, (), 0, height) - side // 2
  left = jax.random.randint(column_key, (), 0, width) - side // 2
  gone = _inside(image, top, top + side, left, left + side)
  return jnp.where(gone, 0, image)


def _inside(
  image: Array, top: Array, bottom: Array, left: Array, right: Array
) -> Array:
  rows, columns = jnp.arange(image.shape[0]), jnp.arange(image.shape[1])
  tall = (rows >= top) & (rows < bottom)
  wide = (columns >= left) & (columns < right)
  return (tall[:, None] & wide)[..., None]
