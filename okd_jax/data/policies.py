"""Random changes of one picture: RandAugment, TrivialAugment, colour jitter.

The random choices depend only on the key. Operations and strengths are those of
torchvision, which follows the papers' code.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from okd_jax.data import operations

Array = jax.Array

OPERATIONS = (
  "identity",
  "shear_x",
  "shear_y",
  "translate_x",
  "translate_y",
  "rotate",
  "brightness",
  "saturation",
  "contrast",
  "sharpness",
  "posterize",
  "solarize",
  "autocontrast",
  "equalize",
)
_BLENDS = {
  "brightness": operations.without_light,
  "saturation": operations.without_colour,
  "contrast": operations.without_contrast,
  "sharpness": operations.without_edges,
}
LEVELS = 31


def rand_augment(image: Array, key: Array, *, count: int, level: int) -> Array:
  """Makes `count` random changes of one strength, one after another.

  Args:
    image: uint8 [H, W, c].
    key: random key.
    count: number of changes, N of the paper.
    level: strength from 0 to 30, M of the paper.

  References:
    Cubuk et al., `RandAugment <https://arxiv.org/abs/1909.13719>`_, NeurIPS
    2020.
  """
  height, width, _ = image.shape
  part = level / (LEVELS - 1)
  strengths = {
    "shear": 0.3 * part,
    "translate_x": 150 / 331 * width * part,
    "translate_y": 150 / 331 * height * part,
    "rotate": 30 * part,
    "blend": 0.9 * part,
    "bits": 8 - round(4 * part),
    "threshold": 255 * (1 - part),
  }
  for each in jax.random.split(key, count):
    image = _random_change(image, each, strengths)
  return image


def trivial_augment(image: Array, key: Array) -> Array:
  """Makes one random change of a random strength (the wide space).

  Args:
    image: uint8 [H, W, c].
    key: random key.

  References:
    Müller & Hutter, `TrivialAugment <https://arxiv.org/abs/2103.10158>`_, ICCV
    2021.
  """
  level_key, key = jax.random.split(key)
  level = jax.random.randint(level_key, (), 0, LEVELS)
  return _random_change(image, key, wide_strengths(level))


def wide_strengths(level: Array | int) -> dict[str, Array | float]:
  """Returns the strengths of TrivialAugment's wide space.

  Those that are compared with levels of pixels or cut to whole pixels are
  exact: a threshold that is a little above 0 would leave black pixels as they
  are, which a threshold of 0 turns white.

  Args:
    level: from 0 to 30.
  """
  most = LEVELS - 1
  part = level / most
  return {
    "shear": 0.99 * part,
    "translate_x": 32 * level // most,
    "translate_y": 32 * level // most,
    "rotate": 135 * part,
    "blend": 0.99 * part,
    "bits": 8 - jnp.round(6 * part).astype(jnp.int32),
    "threshold": 255 / most * (most - level),
  }


def jitter(image: Array, key: Array, amounts: Sequence[float]) -> Array:
  """Changes brightness, contrast, saturation and hue at random, in this order.

  Args:
    image: uint8 [H, W, c].
    key: random key.
    amounts: amounts a of these four; a factor is drawn from
      [max(0, 1 - a), 1 + a], the shift of the hue from [-a, a].
  """
  *blends, hue = amounts
  keys = jax.random.split(key, 4)
  for each, name, amount in zip(
    keys[:3], ("brightness", "contrast", "saturation"), blends, strict=True
  ):
    factor = jax.random.uniform(
      each, minval=max(0.0, 1 - amount), maxval=1 + amount
    )
    image = operations.blend(_BLENDS[name](image), image, factor)
  turn = jax.random.uniform(keys[3], minval=-hue, maxval=hue)
  return operations.turn_hue(image, turn) if hue else image


def change(
  image: Array,
  operation: Array,
  sign: Array,
  strengths: Mapping[str, Array | float],
) -> Array:
  """Makes one change.

  Args:
    image: uint8 [H, W, c].
    operation: index into `OPERATIONS`, traced.
    sign: 1 or -1, for changes that have a direction.
    strengths: the strength of each kind of change.
  """
  at = OPERATIONS.index
  height, width, _ = image.shape
  # All that move pixels are one warp, of the identity where none is chosen.
  shear_x, shear_y, move_x, move_y, angle = (
    jnp.where(operation == at(name), sign * strengths[kind], 0.0)
    for name, kind in (
      ("shear_x", "shear"),
      ("shear_y", "shear"),
      ("translate_x", "translate_x"),
      ("translate_y", "translate_y"),
      ("rotate", "rotate"),
    )
  )
  cos, sin = jnp.cos(jnp.deg2rad(angle)), jnp.sin(jnp.deg2rad(angle))
  # A rotation turns about the centre, the others about the corner.
  x, y = width / 2, height / 2
  matrix = jnp.array(
    [
      [cos, sin + shear_x, x - cos * x - sin * y + jnp.trunc(move_x)],
      [shear_y - sin, cos, y + sin * x - cos * y + jnp.trunc(move_y)],
    ]
  )
  factor = 1 + sign * strengths["blend"]
  # Mapped over examples, a branch would compute all of them, too.
  results = [
    operations.warp(image, matrix),
    *(
      operations.blend(plain(image), image, factor)
      for plain in _BLENDS.values()
    ),
    operations.posterize(image, strengths["bits"]),
    operations.solarize(image, strengths["threshold"]),
    operations.autocontrast(image),
    operations.equalize(image),
  ]
  chosen = jnp.maximum(operation - at("brightness") + 1, 0)
  return jax.lax.select_n(chosen, *results)


def _random_change(
  image: Array, key: Array, strengths: Mapping[str, Array | float]
) -> Array:
  bits = jax.random.bits(key, (2,), jnp.uint32)
  operation = (bits[0] % len(OPERATIONS)).astype(jnp.int32)
  sign = jnp.where(bits[1] % 2 == 1, 1.0, -1.0)
  return change(image, operation, sign, strengths)
