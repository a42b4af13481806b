"""Keypoints in a loop of one's own, whose batches are ready for networks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from okd_jax import core, groups, methods, training
from okd_jax.devices.mesh import make_mesh
from okd_jax.errors import ConfigError
from okd_jax.tasks import keypoints
import toys

J, SIDE, SIZE = 3, 16, 4
TASK = keypoints.Task.of_maps(J, (SIDE, SIDE, 3), pairs=((1, 2),))


def setup():
  mesh = make_mesh(1, 1)
  return training.Setup(
    peers=groups.branches(toys.hourglass(J), num_peers=2, mesh=mesh),
    method=methods.make("okdhp"),
    task=TASK,
    optimizer=optax.sgd(0.1),
    batch_size=SIZE,
    train_size=8,
    rampup_epochs=1,
  )


def ready(seed=0):
  rng = np.random.default_rng(seed)
  target = {
    "maps": rng.random((SIZE, SIDE // 4, SIDE // 4, J), np.float32),
    "weight": np.ones((SIZE, J), np.float32),
  }
  image = rng.normal(size=(SIZE, SIDE, SIDE, 3)).astype(np.float32)
  return core.Batch(image, target, np.arange(SIZE), np.ones(SIZE, bool))


def test_ready_batches_are_passed_on_as_they_are():
  batch = ready()
  given = TASK.augment(
    batch, jax.random.key(0), num_views=None, mesh=make_mesh(1, 1)
  )
  for passed in (given, TASK.normalize(batch)):
    assert passed.target is batch.target
    np.testing.assert_array_equal(passed.image, batch.image)
  shape = [SIDE, SIDE, 3]
  small = keypoints.Task.of_maps(J, shape, image_dtype=jnp.bfloat16)
  assert small.normalize(batch).image.dtype == jnp.bfloat16
  # Predictions are means over the image and its mirror image.
  first, mirrored = TASK.test_views(batch)
  np.testing.assert_array_equal(mirrored.image, first.image[:, :, ::-1])
  assert len(keypoints.Task.of_maps(J, (SIDE, SIDE, 3)).test_views(batch)) == 1


@pytest.mark.parametrize(
  "changes",
  [
    {"image": np.zeros((SIZE, SIDE, SIDE, 3), np.uint8)},
    {"image": np.zeros((SIZE, 2 * SIDE, SIDE, 3), np.float32)},
    {"target": np.zeros(SIZE, np.int32)},
    {"target": {"maps": np.zeros((SIZE, SIDE, SIDE, J)), "weight": 1.0}},
    {"target": {"maps": np.zeros((SIZE, 4, 4, J))}},
  ],
)
def test_other_batches_are_refused_before_anything_runs(changes):
  made, key = setup(), jax.random.key(0)
  state = training.abstract(made, key)
  batch = dataclasses.replace(ready(), **changes)
  message = r"floats \[B, 16, 16, 3\] and a target of 'maps' \[B, 4, 4, 3\]"
  with pytest.raises(ConfigError, match=message):
    jax.eval_shape(
      functools.partial(training.train_step, made), state, batch, key
    )
  with pytest.raises(ConfigError, match=message):
    jax.eval_shape(
      functools.partial(training.predict, made),
      state.params,
      state.memory,
      batch,
    )


def test_figures_need_the_picture():
  made = setup()
  state = training.abstract(made, jax.random.key(0))
  with pytest.raises(ConfigError, match="in units of the picture"):
    TASK.pictures(ready(), np.zeros((SIZE, 4, 4, J)))
  with pytest.raises(ConfigError, match="in units of the picture"):
    jax.eval_shape(
      functools.partial(training.eval_step, made),
      state.params,
      state.memory,
      ready(),
    )


def test_maps_that_do_not_fit_are_refused():
  with pytest.raises(ConfigError, match="multiples of 4"):
    keypoints.Task.of_maps(J, (18, 16, 3))
  with pytest.raises(ConfigError, match="height, width, channels"):
    keypoints.Task.of_maps(J, (16, 16))
  with pytest.raises(ConfigError, match="at least 1"):
    keypoints.Task.of_maps(0, (16, 16, 3))
  for pairs in ((1, 3),), (1, 2), ((0, 1, 2),):
    with pytest.raises(ConfigError, match="pairs of the 3 joints"):
      keypoints.Task.of_maps(J, (16, 16, 3), pairs=pairs)
