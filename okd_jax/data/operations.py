"""Changes of one picture by a strength, as in Pillow, on the device.

Each takes uint8 [H, W, c] and a number that may be traced, and returns uint8
of the same shape. They use only `jax.numpy`, so they can be mapped over
examples.
"""

import jax
import jax.numpy as jnp

Array = jax.Array

# Of red, green and blue in the grey of ITU-R 601, in 65536ths, as in Pillow.
_GREY = (19595, 38470, 7471)


def warp(image: Array, matrix: Array) -> Array:
  """Moves pixels by an affine map; takes the nearest pixel, black outside.

  Args:
    image: uint8 [H, W, c].
    matrix: float [2, 3], from the (x, y, 1) of a pixel's centre in the result
      to that in the image, as in `PIL.Image.transform`.
  """
  height, width, _ = image.shape
  y, x = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
  centres = jnp.stack([x + 0.5, y + 0.5, jnp.ones_like(x, float)])
  # Accelerators would round the places to 8 bits by default.
  places = jnp.einsum(
    "ij,jhw->ihw", matrix, centres, precision=jax.lax.Precision.HIGHEST
  )
  column, row = jnp.floor(places).astype(jnp.int32)
  inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
  index = jnp.where(inside, row * width + column, 0)
  pixels = jnp.asarray(image).reshape(height * width, -1)[index]
  return jnp.where(inside[..., None], pixels, 0)


def grey(image: Array) -> Array:
  """The brightness of every pixel, uint8 [H, W, 1]."""
  if image.shape[-1] != 3:
    return image[..., :1]
  weighted = jnp.sum(image.astype(jnp.int32) * jnp.array(_GREY), -1)
  return ((weighted + 2**15) >> 16).astype(jnp.uint8)[..., None]


def blend(plain: Array, image: Array, factor: Array | float) -> Array:
  """Blends `plain` (factor 0) and the image (factor 1), also beyond 1."""
  base = plain.astype(jnp.float32)
  moved = base + factor * (image.astype(jnp.float32) - base)
  return jnp.clip(moved, 0, 255).astype(jnp.uint8)


def without_light(image: Array) -> Array:
  """The picture without brightness: black."""
  return jnp.zeros_like(image)


def without_colour(image: Array) -> Array:
  """The picture without saturation: the same in grey."""
  return jnp.broadcast_to(grey(image), image.shape)


def without_contrast(image: Array) -> Array:
  """The picture without contrast: the mean grey everywhere."""
  mean = jnp.floor(jnp.mean(grey(image).astype(jnp.float32)) + 0.5)
  return jnp.full_like(image, mean.astype(jnp.uint8))


def without_edges(image: Array) -> Array:
  """The picture without sharpness: the same smoothed, except for the border."""
  wide = image.astype(jnp.float32)
  height, width, _ = image.shape
  if min(height, width) < 3:
    return image
  shifted = [
    wide[i : height - 2 + i, j : width - 2 + j]
    for i in range(3)
    for j in range(3)
  ]
  inner = (sum(shifted) + 4 * wide[1:-1, 1:-1]) / 13
  smooth = jnp.clip(inner + 0.5, 0, 255).astype(jnp.uint8)
  return jnp.asarray(image).at[1:-1, 1:-1].set(smooth)


def posterize(image: Array, bits: Array | float) -> Array:
  """Keeps this number of bits of every level."""
  shift = (8 - jnp.asarray(bits)).astype(jnp.uint8)
  return (image >> shift) << shift


def solarize(image: Array, threshold: Array | float) -> Array:
  """Inverts all levels from a threshold on."""
  return jnp.where(image.astype(jnp.float32) < threshold, image, 255 - image)


def autocontrast(image: Array) -> Array:
  """Spreads the levels of every channel over the whole range."""
  wide = image.astype(jnp.float32)
  low, high = jnp.min(wide, (0, 1)), jnp.max(wide, (0, 1))
  scale = 255 / jnp.maximum(high - low, 1)
  spread = jnp.clip((wide - low) * scale, 0, 255).astype(jnp.uint8)
  return jnp.where(high > low, spread, image)


def equalize(image: Array) -> Array:
  """Makes all levels of a channel about equally frequent."""

  def one(channel: Array) -> Array:
    levels = channel.reshape(-1)
    counts = jnp.zeros(256, jnp.int32).at[levels].add(1)
    last = counts[jnp.max(levels)]
    step = (levels.size - last) // 255
    before = jnp.cumsum(counts) - counts
    table = (before + step // 2) // jnp.maximum(step, 1)
    new = jnp.clip(table, 0, 255).astype(jnp.uint8)[channel]
    return jnp.where(step > 0, new, channel)

  return jax.vmap(one, -1, -1)(image)


def turn_hue(image: Array, turn: Array | float) -> Array:
  """Shifts the hue by a part of the colour circle, [-0.5, 0.5]."""
  if image.shape[-1] != 3:
    return image
  wide = image.astype(jnp.float32) / 255
  most, least = jnp.max(wide, -1), jnp.min(wide, -1)
  span = most - least
  safe = jnp.where(span > 0, span, 1)
  red, green, blue = jnp.moveaxis(wide, -1, 0)
  hue = jnp.where(
    most == red,
    (green - blue) / safe,
    jnp.where(most == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
  )
  hue = hue / 6 + turn
  # Of red, green and blue the distance on the circle says how much they have.
  offsets = jnp.array([5.0, 3.0, 1.0])
  k = (offsets + 6 * hue[..., None]) % 6
  part = jnp.clip(jnp.minimum(k, 4 - k), 0, 1)
  turned = most[..., None] - span[..., None] * part
  return jnp.clip(jnp.round(turned * 255), 0, 255).astype(jnp.uint8)
