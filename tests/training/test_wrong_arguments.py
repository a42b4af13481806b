"""What a loop of one's own may give the step by mistake."""

import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from okd_jax import core, groups, training
from okd_jax.devices.mesh import make_mesh
from okd_jax.errors import ConfigError
from okd_jax.tasks import classification
import toys

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def setup():
  return toys.recipe("dml", num_peers=3, net=toys.Quick())


@pytest.fixture(scope="module")
def state(setup):
  return training.init(setup, KEY)


def step(setup, state, batch=None, key=KEY):
  batch = toys.batch(0) if batch is None else batch
  return jax.eval_shape(
    functools.partial(training.train_step, setup, key=key), state, batch
  )


@pytest.mark.parametrize(
  "change",
  [
    {"index": None},
    {"mask": None},
    {"mask": jnp.ones(3, bool)},
    {"image": jnp.zeros((3, 8, 8, 1))},
  ],
)
def test_a_batch_has_all_fields(setup, state, change):
  batch = dataclasses.replace(toys.batch(0), **change)
  with pytest.raises(ConfigError, match="a batch must be core.Batch"):
    step(setup, state, batch)
  with pytest.raises(ConfigError, match="a batch must be core.Batch"):
    training.eval_step(setup, state.params, state.memory, batch)


def test_a_tuple_is_no_batch(setup, state):
  batch = toys.batch(0)
  with pytest.raises(ConfigError, match="got a tuple with the shapes"):
    step(setup, state, (batch.image, batch.target))


def test_known_padding_is_not_trained_on(setup, state):
  batch = toys.batch(0)
  mask = batch.mask & (np.arange(len(batch.mask)) > 1)
  padded = dataclasses.replace(batch, mask=mask)
  with pytest.raises(ConfigError, match=r"False for 2 example\(s\)"):
    training.train_step(setup, state, padded, KEY)
  training.eval_step(setup, state.params, state.memory, padded)


def test_a_number_is_no_key(setup, state):
  with pytest.raises(ConfigError, match="key=3 must be .* jax.random.key"):
    step(setup, state, key=3)
  step(setup, state, key=jax.random.PRNGKey(3))


def test_images_of_another_size_are_named():
  task = classification.Task(toys.INFO.num_classes, (6, 6, 1))
  setup = toys.recipe("dml", num_peers=3, net=toys.Quick(), task=task)
  batch = dataclasses.replace(toys.batch(0), image=jnp.zeros((16, 6, 6, 2)))
  with pytest.raises(ConfigError, match="Quick was made for images of another"):
    step(setup, training.init(setup, KEY), batch)


def test_a_state_of_another_group_is_refused(state):
  more = toys.recipe("dml", num_peers=4, net=toys.Quick())
  with pytest.raises(
    ConfigError, match=r"has shape \[3, .*has 4 peer.* of Quick"
  ):
    step(more, state)


@pytest.mark.parametrize(
  "optimizer",
  [optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1)), optax.lbfgs(1e-2)],
)
def test_optimizers_that_need_more_are_named(setup, state, optimizer):
  other = dataclasses.replace(setup, optimizer=optimizer)
  made = dataclasses.replace(state, opt_state=optimizer.init(state.params))
  with pytest.raises(ConfigError, match="the optimizer cannot be updated"):
    step(other, made)


def test_the_state_of_another_optimizer_is_named(setup, state):
  other = dataclasses.replace(setup, optimizer=optax.adam(0.1))
  with pytest.raises(ConfigError, match="state that training.init made with"):
    step(other, state)


def test_a_mesh_of_other_axes_is_refused():
  mesh = jax.make_mesh((1,), ("data",))
  with pytest.raises(ConfigError, match=r"axes \('data',\), .*make_mesh"):
    groups.replicas(toys.Quick(), 2, mesh)


class Scalar(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    return jnp.mean(nn.Dense(1)(x))


def test_a_scalar_is_no_prediction():
  group = groups.replicas(Scalar(), 2, make_mesh(1))
  with pytest.raises(ConfigError, match=r"returned float32\[\]; let it return"):
    images = jnp.zeros((2, 8, 8, 1))
    group.apply(group.init(KEY, images), images, KEY, train=False)


def test_a_state_can_be_traced(setup, state):
  init = functools.partial(training.init, setup)
  shapes = jax.eval_shape(init, KEY)
  expected = jax.tree.map(lambda x: (x.shape, x.dtype), state)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == expected
  abstract = training.abstract(setup, KEY)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), abstract) == expected
  assert {x.sharding for x in jax.tree.leaves(abstract)} == {
    x.sharding for x in jax.tree.leaves(state)
  }
  several = jax.vmap(init)(jax.random.split(KEY, 2))
  kernel = several.params["peers"]["head"]["kernel"]
  assert len(kernel) == 2 and not np.array_equal(kernel[0], kernel[1])


class Measuring(core.Method):
  def __call__(self, outputs, batch, ctx):
    ce = optax.softmax_cross_entropy_with_integer_labels
    terms = {"ce": ce(outputs.logits, batch.target[None])}
    return core.MethodOutput(terms, summaries={"rate": 0.5})


def test_a_summary_may_be_a_number():
  setup = toys.recipe(Measuring(), num_peers=2, net=toys.Quick())
  _, measured = step(setup, training.init(setup, KEY))
  assert measured["summaries"]["rate"].shape == ()
