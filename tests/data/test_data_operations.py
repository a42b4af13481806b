"""Changes of one picture against Pillow, which the papers' code uses."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageEnhance, ImageOps
import pytest

from okd_jax.data import erasing, operations, policies

RNG = np.random.default_rng(0)
SMOOTH = np.linspace(0, 255, 20 * 17)
PICTURES = {
  "colours": RNG.integers(0, 256, (20, 17, 3), dtype=np.uint8),
  "grey": RNG.integers(40, 200, (20, 17, 1), dtype=np.uint8),
  "smooth": np.stack([SMOOTH, SMOOTH[::-1], SMOOTH / 2], -1)
  .reshape(20, 17, 3)
  .astype(np.uint8),
  "flat": np.full((20, 17, 3), 77, np.uint8),
}
each_picture = pytest.mark.parametrize(
  "picture", PICTURES.values(), ids=PICTURES.keys()
)


def pillow(picture):
  return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)


def as_array(image):
  array = np.asarray(image)
  return array if array.ndim == 3 else array[..., None]


def assert_near(found, expected, levels=0):
  assert found.dtype == np.uint8
  difference = np.abs(np.asarray(found, int) - as_array(expected).astype(int))
  assert difference.max() <= levels, difference.max()


@each_picture
@pytest.mark.parametrize("factor", [0.0, 0.1, 1.0, 1.7])
@pytest.mark.parametrize(
  ("plain", "enhance"),
  [
    (operations.without_light, ImageEnhance.Brightness),
    (operations.without_colour, ImageEnhance.Color),
    (operations.without_contrast, ImageEnhance.Contrast),
    (operations.without_edges, ImageEnhance.Sharpness),
  ],
  ids=lambda value: value.__name__,
)
def test_blends(picture, factor, plain, enhance):
  found = jax.jit(lambda x: operations.blend(plain(x), x, factor))(picture)
  # One level, where a product falls on a whole number.
  assert_near(found, enhance(pillow(picture)).enhance(factor), levels=1)


@each_picture
def test_point_operations(picture):
  image = pillow(picture)
  for bits in (1, 4, 8):
    found = jax.jit(operations.posterize)(picture, bits)
    assert_near(found, ImageOps.posterize(image, bits))
  for threshold in (0, 100, 255, 256):
    found = jax.jit(operations.solarize)(picture, threshold)
    assert_near(found, ImageOps.solarize(image, threshold))
  found = jax.jit(operations.autocontrast)(picture)
  assert_near(found, ImageOps.autocontrast(image), levels=1)
  assert_near(jax.jit(operations.equalize)(picture), ImageOps.equalize(image))


@each_picture
@pytest.mark.parametrize(
  "matrix",
  [(1, 0, 0, 0, 1, 0), (1, 0.3, 0, 0, 1, 0), (1, 0, -3, -0.2, 1, 5)],
)
def test_warps(picture, matrix):
  found = jax.jit(operations.warp)(
    picture, np.reshape(matrix, (2, 3)).astype(np.float32)
  )
  image = pillow(picture)
  expected = image.transform(
    image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST
  )
  wrong = np.any(np.asarray(found) != as_array(expected), -1)
  assert wrong.mean() < 0.01  # rounding on the border of two pixels


def changed(picture, name, sign=1.0, **strengths):
  given = {
    kind: 0.0
    for kind in ("shear", "translate_x", "translate_y", "rotate", "blend")
  } | {"bits": 8, "threshold": 256.0}
  index = jnp.int32(policies.OPERATIONS.index(name))
  return jax.jit(policies.change)(picture, index, sign, given | strengths)


def test_changes_are_the_ones_that_are_named():
  picture = PICTURES["colours"]
  image = pillow(picture)
  assert_near(changed(picture, "identity", rotate=30.0), picture)
  moved = np.zeros_like(picture)
  moved[:, :-4] = picture[:, 4:]
  assert_near(changed(picture, "translate_x", translate_x=4.9), moved)
  moved = np.zeros_like(picture)
  moved[3:] = picture[:-3]
  assert_near(changed(picture, "translate_y", -1.0, translate_y=3.0), moved)
  for name, matrix in (
    ("shear_x", (1, 0.3, 0, 0, 1, 0)),
    ("shear_y", (1, 0, 0, 0.3, 1, 0)),
  ):
    expected = image.transform(image.size, Image.Transform.AFFINE, matrix)
    found = np.asarray(changed(picture, name, shear=0.3))
    assert np.mean(np.any(found != np.asarray(expected), -1)) < 0.01
  found = np.asarray(changed(picture, "rotate", -1.0, rotate=30.0))
  expected = [np.asarray(image.rotate(angle)) for angle in (30, -30)]
  assert min(np.mean(np.any(found != e, -1)) for e in expected) < 0.02
  for name, enhance in (
    ("brightness", ImageEnhance.Brightness),
    ("saturation", ImageEnhance.Color),
    ("contrast", ImageEnhance.Contrast),
    ("sharpness", ImageEnhance.Sharpness),
  ):
    for sign in (1.0, -1.0):
      found = changed(picture, name, sign, blend=0.4)
      assert_near(found, enhance(image).enhance(1 + sign * 0.4), levels=1)
  assert_near(
    changed(picture, "posterize", bits=3), ImageOps.posterize(image, 3)
  )
  found = changed(picture, "solarize", threshold=50.0)
  assert_near(found, ImageOps.solarize(image, 50))
  assert_near(changed(picture, "equalize"), ImageOps.equalize(image))
  found = changed(PICTURES["grey"], "autocontrast")
  expected = ImageOps.autocontrast(pillow(PICTURES["grey"]))
  assert_near(found, expected, levels=1)


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.25])
def test_hue(turn):
  picture = PICTURES["colours"]

  def one(pixel):
    hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
    return colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)

  expected = np.apply_along_axis(one, -1, picture) * 255
  found = np.asarray(operations.turn_hue(picture, turn))
  assert np.abs(found - expected).max() < 0.6
  grey = PICTURES["grey"]
  np.testing.assert_array_equal(operations.turn_hue(grey, turn), grey)


def keys(count):
  return jax.random.split(jax.random.key(0), count)


def test_policies_draw_every_change_and_keep_uint8():
  picture = PICTURES["smooth"]
  trivial = jax.jit(jax.vmap(policies.trivial_augment, (None, 0)))
  found = np.asarray(trivial(picture, keys(400)))
  assert found.dtype == np.uint8 and found.shape == (400, *picture.shape)
  same = np.mean(np.all(found == picture, (1, 2, 3)))
  assert 1 / 14 - 0.05 < same < 3 / 14
  # Of strength 0 the only changes left are those without strength.
  rand = jax.jit(
    jax.vmap(
      lambda image, key: policies.rand_augment(image, key, count=1, level=0),
      (None, 0),
    )
  )
  different = np.unique(np.asarray(rand(picture, keys(200))), axis=0)
  # As it was, autocontrast, equalize, and white inverted: 255 is solarized.
  assert len(different) == 4
  strong = jax.jit(
    jax.vmap(
      lambda image, key: policies.rand_augment(image, key, count=2, level=9),
      (None, 0),
    )
  )
  two = strong(picture, keys(50))
  assert len(np.unique(np.asarray(two), axis=0)) > 40


def test_strengths_that_meet_whole_levels_are_exact():
  # In one compiled layout the highest threshold was 1e-5, and black stayed so.
  levels = jnp.arange(policies.LEVELS)
  found = jax.jit(policies.wide_strengths)(levels)
  np.testing.assert_array_equal(found["threshold"], np.arange(30, -1, -1) * 8.5)
  cut = np.arange(31) * 32 // 30
  np.testing.assert_array_equal(found["translate_x"], cut)
  np.testing.assert_array_equal(found["translate_y"], cut)


def test_no_place_and_no_level_is_rounded_on_accelerators():
  picture = jax.ShapeDtypeStruct(PICTURES["colours"].shape, np.uint8)

  def both(image, key):
    image = policies.rand_augment(image, key, count=2, level=9)
    image = policies.trivial_augment(image, key)
    return policies.jitter(image, key, (0.4, 0.4, 0.4, 0.1))

  program = jax.jit(both).lower(picture, jax.random.key(0)).as_text()
  products = [line for line in program.splitlines() if "dot_general" in line]
  assert products
  assert all("[HIGHEST, HIGHEST]" in line for line in products)


def test_jitter_stays_in_its_range():
  flat = np.full((4, 4, 3), (50, 100, 150), np.uint8)
  jitter = jax.jit(
    jax.vmap(lambda key: policies.jitter(flat, key, (0.4, 0.0, 0.0, 0.0)))
  )
  factors = np.asarray(jitter(keys(200)))[:, 0, 0] / (50, 100, 150)
  assert 0.59 < factors.min() < 0.65 and 1.2 < factors.max() < 1.41
  assert np.ptp(factors, axis=1).max() < 0.021  # levels are whole
  nothing = policies.jitter(flat, keys(1)[0], (0.0, 0.0, 0.0, 0.0))
  np.testing.assert_array_equal(nothing, flat)


def test_erased_rectangles():
  image = jnp.ones((32, 24, 2))
  erased = np.asarray(
    jax.vmap(lambda key: erasing.erase(image, key, 0.5))(keys(400))
  )
  gone = (erased == 0).all(-1)
  share = gone.mean((1, 2))
  assert 0.4 < np.mean(share > 0) < 0.6
  assert 0.01 < share[share > 0].min() and share.max() < 0.45
  for one in gone[share > 0][:20]:  # a rectangle, and whole
    rows, columns = one.any(1), one.any(0)
    np.testing.assert_array_equal(one, rows[:, None] & columns)
  never = jax.vmap(lambda key: erasing.erase(image, key, 0.0))(keys(20))
  assert np.all(np.asarray(never) == 1)


def test_cutout_is_a_square_that_the_border_may_cut():
  image = jnp.ones((16, 16, 1))
  cut = np.asarray(
    jax.vmap(lambda key: erasing.cut_out(image, key, 8))(keys(300))
  )
  gone = (cut == 0).sum((1, 2, 3))
  assert gone.max() == 64 and 16 <= gone.min() < 30
