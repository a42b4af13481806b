"""Augmentation against NumPy, its distribution, the same on every mesh."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh
import numpy as np
import pytest
import quick

from okd_jax import data
from okd_jax.data.info import KNOWN

INFO = dataclasses.replace(
  KNOWN["cifar10"], image_shape=(6, 5, 3), pad=2, name="toy"
)
COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-permute",
  "reduce-scatter",
)


def images(count, info=INFO, seed=0):
  generator = np.random.default_rng(seed)
  shape = (count, *info.image_shape)
  return generator.integers(0, 256, shape).astype(np.uint8)


def mesh(shape):
  size = int(np.prod(shape))
  return Mesh(
    np.asarray(jax.devices()[:size]).reshape(shape),
    ("data", "peer"),
    axis_types=(AxisType.Auto,) * 2,
  )


def draws(key, view, slot, info):
  """The documented draw of one example: two offsets and the flip."""
  key = jax.random.fold_in(jax.random.fold_in(key, view), slot)
  span = 2 * info.pad + 1
  bits = np.asarray(jax.random.bits(key, (3,), jnp.uint32))
  return (bits % np.array([span, span, 2])).tolist()


def numpy_augment(image, row, column, flip, info, pad_mode):
  pad = info.pad
  widths = ((pad, pad), (pad, pad), (0, 0))
  height, width, _ = info.image_shape
  image = np.pad(image, widths, pad_mode)
  image = image[row : row + height, column : column + width]
  if flip:
    image = image[:, ::-1]
  scaled = image.astype(np.float64) / 255
  return (scaled - np.array(info.mean)) / np.array(info.std)


@pytest.mark.parametrize("pad_mode", ["constant", "reflect", "symmetric"])
@pytest.mark.parametrize("flip", [True, False])
def test_matches_numpy(pad_mode, flip):
  info = dataclasses.replace(INFO, flip=flip)
  batch, key = images(6), jax.random.key(3)
  found = data.augment(batch, key, info=info, num_views=2, pad_mode=pad_mode)
  chex.assert_shape(found, (2, 6, 6, 5, 3))
  chex.assert_type(found, jnp.float32)
  for view in range(2):
    for slot in range(6):
      row, column, flipped = draws(key, view, slot, info)
      expected = numpy_augment(
        batch[slot], row, column, flipped and flip, info, pad_mode
      )
      np.testing.assert_allclose(found[view, slot], expected, atol=1e-5)


def test_view_zero_is_the_only_view():
  batch, key = images(4), jax.random.key(1)
  one = data.augment(batch, key, info=INFO)
  two = data.augment(batch, key, info=INFO, num_views=2)
  np.testing.assert_array_equal(one, two[0])
  assert not np.array_equal(two[0], two[1])


def test_dtype_and_float64():
  batch, key = images(4), jax.random.key(1)
  half = data.augment(batch, key, info=INFO, dtype=jnp.bfloat16)
  full = data.augment(batch, key, info=INFO)
  chex.assert_type(half, jnp.bfloat16)
  np.testing.assert_array_equal(half, full.astype(jnp.bfloat16))
  with jax.enable_x64(True):
    double = data.normalize(jnp.asarray(batch), INFO, jnp.float64)
    expected = numpy_augment(
      batch[0], 0, 0, False, dataclasses.replace(INFO, pad=0), "constant"
    )
    np.testing.assert_allclose(double[0], expected, rtol=1e-14)


def test_distribution_of_offsets_and_flips():
  # One bright pixel in the middle tells where the crop was and if it flipped.
  info = dataclasses.replace(
    INFO, image_shape=(5, 5, 1), mean=(0.25,), std=(0.5,)
  )
  count = 4000
  batch = np.zeros((count, 5, 5, 1), np.uint8)
  batch[:, 2, 2] = 255
  batch[:, 2, 1] = 100  # on the right of it only after a flip
  found = np.asarray(data.augment(batch, jax.random.key(0), info=info))[..., 0]
  bright = (1 - 0.25) / 0.5
  black = -0.25 / 0.5
  dim = (100 / 255 - 0.25) / 0.5
  for value in np.unique(found):
    assert min(abs(value - v) for v in (bright, black, dim)) < 1e-6
  places = np.argwhere(np.isclose(found, bright))
  assert len(places) == count  # with pad 2 the middle pixel never leaves
  cells = np.zeros((5, 5))
  np.add.at(cells, (places[:, 1], places[:, 2]), 1)
  # 25 cells of 160 expected; five standard deviations.
  assert np.abs(cells - count / 25).max() < 5 * np.sqrt(count / 25)
  inner = [(n, r, c) for n, r, c in places if 0 < c < 4]
  flipped = np.mean([np.isclose(found[n, r, c + 1], dim) for n, r, c in inner])
  assert abs(flipped - 0.5) < 5 * 0.5 / np.sqrt(len(inner))


@pytest.mark.parametrize(
  "shape", quick.only([(4, 2)], [(4, 2), (8, 1), (2, 4), (1, 1)])
)
@pytest.mark.checklist("D2")
def test_results_do_not_depend_on_the_mesh(shape):
  batch, key = images(8), jax.random.key(7)
  where = mesh(shape)
  for views in (None, 4):
    np.testing.assert_array_equal(
      data.augment(batch, key, info=INFO, num_views=views, mesh=where),
      data.augment(batch, key, info=INFO, num_views=views),
    )


@pytest.mark.parametrize("views", [None, 4])
def test_no_collectives(views):
  where = mesh((4, 2))
  batch = jax.device_put(
    images(8),
    jax.sharding.NamedSharding(where, jax.sharding.PartitionSpec("data")),
  )
  fn = functools.partial(data.augment, info=INFO, num_views=views, mesh=where)
  compiled = jax.jit(fn).lower(batch, jax.random.key(0)).compile()
  text = compiled.as_text()
  assert not [name for name in COLLECTIVES if name in text]
  spec = compiled.output_shardings.spec
  wanted = ("data",) if views is None else ("peer", "data")
  assert tuple(spec)[: len(wanted)] == wanted


def test_refuses_wrong_input():
  key = jax.random.key(0)
  with pytest.raises(AssertionError):
    data.augment(images(4).astype(np.float32), key, info=INFO)
  with pytest.raises(AssertionError):
    data.augment(images(4)[:, :-1], key, info=INFO)
  with pytest.raises(ValueError, match="pad_mode='edge'"):
    data.augment(images(4), key, info=INFO, pad_mode="edge")
  with pytest.raises(ValueError, match="num_views 3 must be a multiple"):
    data.augment(images(8), key, info=INFO, num_views=3, mesh=mesh((4, 2)))
  with pytest.raises(ValueError, match="batch size 6 must be a multiple"):
    data.augment(images(6), key, info=INFO, mesh=mesh((4, 2)))
