"""Batches in parts, and averages for methods that have none."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from configs import common, okddip_digits
from okd_jax import core, losses, methods
from okd_jax.errors import ConfigError
from okd_jax.settings import config as config_lib, layout
from okd_jax.settings.freeze import freeze
from okd_jax.training import evaluate, parts
from okd_jax.training.schedule import Schedule
import runs
import toys

# Of those below the terms look at one example, and no network normalises.
PER_EXAMPLE = ("kd", "okddip", "pcl")


class Plain(nn.Module):
  """A trunk and a tail without statistics of the batch."""

  part: str = "whole"

  @nn.compact
  def __call__(self, x, *, train):
    del train
    if self.part != "tail":
      x = nn.tanh(nn.Conv(3, (3, 3), name="trunk")(x))
    if self.part == "trunk":
      return x
    x = nn.tanh(nn.Conv(4, (3, 3), name="tail")(x))
    features = jnp.mean(x, (-3, -2))
    logits = nn.Dense(toys.INFO.num_classes, name="head")(features)
    return core.Outputs(logits, features, (x,))


def recipe(name, accumulate, **options):
  method = methods.make(name)
  kind = method.needs.kind or ("branches" if name == "pcl" else "replicas")
  return toys.recipe(
    method,
    kind=kind,
    num_peers=2,
    net=Plain(),
    dtype=jnp.float64,
    accumulate=accumulate,
    **options,
  )


@pytest.mark.parametrize("name", quick.only(["okddip"], PER_EXAMPLE))
def test_parts_equal_the_whole_batch(name):
  with jax.enable_x64(True):
    expected, whole = runs.train(recipe(name, 1), 3)
    # On several devices, which must not change anything either.
    mesh = {"data": 2, "peer": 2} if name == "okddip" else {}
    state, measured = runs.train(recipe(name, 4, **mesh), 3)
  runs.assert_close(state, expected, rtol=1e-9)
  for key in ("terms", "figures", "summaries", "learning_rate"):
    runs.assert_close(measured[key], whole[key], rtol=1e-9)


@pytest.mark.long
def test_statistics_move_once_a_part():
  one = toys.recipe("independent", num_peers=1)
  split = dataclasses.replace(one, accumulate=4)
  before = runs.start(one).memory["peers"]
  after = [runs.train(setup, 1)[0].memory["peers"] for setup in (one, split)]
  moved = [np.abs(jax.tree.leaves(memory)[0]) for memory in after]
  assert np.all(np.isfinite(moved[1])) and not np.allclose(*moved)
  assert jax.tree.structure(before) == jax.tree.structure(after[1])


@pytest.mark.long
def test_turns_and_memory_of_examples_go_through_parts():
  method = methods.make("dml", form="pairwise", updates="alternating")
  with jax.enable_x64(True):
    made = [
      toys.recipe(
        method, num_peers=2, net=Plain(), dtype=jnp.float64, accumulate=count
      )
      for count in (1, 2)
    ]
    expected, state = (runs.train(setup, 2)[0] for setup in made)
  runs.assert_close(state, expected, rtol=1e-9)


class Drawing(core.Method):
  """Reports a random number and its square."""

  def __call__(self, outputs, batch, ctx):
    terms = {"peer_ce": losses.cross_entropy(outputs.logits, batch.target)}
    drawn = jax.random.uniform(ctx.key)
    return core.MethodOutput(
      terms, summaries={"drawn": drawn, "square": drawn**2}
    )


def test_every_part_draws_for_itself():
  setup = toys.recipe(Drawing(), num_peers=2, net=toys.Quick(), accumulate=2)
  means = runs.train(setup, 1)[1]["summaries"]
  # The variance of the parts' numbers.
  assert means["square"] - means["drawn"] ** 2 > 1e-4


def test_a_part_has_examples_of_every_device():
  setup, batch = recipe("independent", 2), toys.batch(0, 8)
  split = parts.split(setup, jax.tree.map(jnp.asarray, batch))
  np.testing.assert_array_equal(split.index, [[0, 2, 4, 6], [1, 3, 5, 7]])
  np.testing.assert_array_equal(split.image[1], batch.image[1::2])
  views = dataclasses.replace(batch, image=np.stack([batch.image] * 3))
  split = parts.split(setup, jax.tree.map(jnp.asarray, views))
  assert split.image.shape == (2, 3, 4, *toys.INFO.image_shape)


def test_batches_that_do_not_divide_are_refused():
  config = okddip_digits.get_config("smoke")
  config.accumulate = 3
  with pytest.raises(ConfigError, match="multiple of config.accumulate=3"):
    config_lib.check(freeze(config))
  config.accumulate = 4
  config.mesh.data, config.mesh.peer = 2, 1
  with pytest.raises(ConfigError, match="config.accumulate=5 must be a"):
    layout.mesh(freeze(config))


@pytest.mark.parametrize("accumulate", quick.only([2], [1, 2]))
def test_averages_of_any_method_are_kept_and_deployed(accumulate):
  setup = toys.recipe(
    "dml",
    num_peers=2,
    ema_decay=0.6,
    accumulate=accumulate,
    schedule=Schedule("constant"),
  )
  state = runs.start(setup)
  step_fn = runs.jitted(setup, state)
  mean = jax.device_get({"params": state.params, "memory": state.memory})
  for step in range(4):
    batch = runs.on_mesh(setup, toys.batch(step))
    state, _ = step_fn(state, batch, jax.random.key(1))
    # The plain mean of all steps at first: 0, 1/2, then 0.6.
    phi = min(step / (step + 1), 0.6)
    mean = jax.tree.map(
      lambda old, new, phi=phi: phi * old + (1 - phi) * new,
      mean,
      jax.device_get({"params": state.params, "memory": state.memory}),
    )
  found = {"params": state.average.params, "memory": state.average.memory}
  runs.assert_close(jax.device_get(found), mean, rtol=1e-5)


class OneSplit:
  """A source of sixteen test images."""

  positions = {"test": np.arange(16), "validation": np.arange(0)}

  def __init__(self, setup):
    self.setup = setup

  def evaluation(self, split):
    del split
    yield runs.on_mesh(self.setup, toys.batch(0))


@pytest.mark.long
def test_averages_are_evaluated():
  setup = toys.recipe("dml", num_peers=2, ema_decay=0.6)
  state, _ = runs.train(setup, 3)
  figures = evaluate.Evaluator(setup, OneSplit(setup)).figures(state)
  averaged = {f.who: v for f, v in figures.items() if f.averaged}
  live = {f.who: v for f, v in figures.items() if not f.averaged}
  assert averaged["peer_0"] != live["peer_0"]
  leader = next(v for f, v in figures.items() if f.who == "leader")
  first = next(
    v for f, v in figures.items() if f.who == "peer_0" and f.averaged
  )
  assert leader == first


def test_methods_with_averages_of_their_own_keep_them():
  config = okddip_digits.get_config("smoke")
  config.ema_decay = 0.99
  config_lib.check(freeze(config))
  config.method = common.method("pcl")
  config.peers.kind = "branches"
  with pytest.raises(ConfigError, match="keeps averages of its own"):
    config_lib.check(freeze(config))
