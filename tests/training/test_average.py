"""Averages over training: what is averaged, and in which types."""

import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from okd_jax import core, layers, losses, methods, training
from okd_jax.training import measures as measures_lib, state as state_lib
import runs
import toys


class Normed(core.Method):
  """Learns from the peers' normalised features, and has peers averaged."""

  @property
  def needs(self):
    return core.Needs(ema_decay=0.6)

  @nn.compact
  def __call__(self, outputs, batch, ctx):
    norm = layers.BatchNorm(name="norm")
    mean = norm(
      jnp.mean(outputs.features, 0), use_running_average=not ctx.train
    )
    logits = nn.Dense(outputs.logits.shape[-1], name="head")(mean)
    return core.MethodOutput(
      {"ensemble_ce": losses.cross_entropy(logits, batch.target)},
      {"normed": logits},
      {
        "is_even": ctx.step % 2 == 0,
        "one": jnp.ones((), jnp.bfloat16),
      },
    )


def test_statistics_of_a_method_are_averaged_beside_passed_peers():
  setup = toys.recipe(Normed(), num_peers=2, net=toys.Quick())
  state = runs.start(setup)
  step_fn = runs.jitted(setup, state)
  mean = np.zeros(8)
  for step in range(4):
    batch = runs.on_mesh(setup, toys.batch(step))
    state, _ = step_fn(state, batch, jax.random.key(1))
    phi = min(step / (step + 1), 0.6)
    live = state.memory["method"]["batch_stats"]["norm"]["mean"]
    mean = phi * mean + (1 - phi) * np.asarray(live)
  found = state.average.memory["method"]["batch_stats"]["norm"]["mean"]
  assert np.any(mean)
  np.testing.assert_allclose(found, mean, rtol=1e-5)


class Watched(core.Method):
  """Shows what averaged peers with averaged statistics say."""

  @property
  def needs(self):
    return core.Needs(ema_decay=0.6, average_statistics=True)

  @nn.compact
  def __call__(self, outputs, batch, ctx):
    return core.MethodOutput(
      {"peer_ce": losses.cross_entropy(outputs.logits, batch.target)},
      summaries={"said": jnp.mean(outputs.ema.logits, 1)},
    )


def test_averaged_peers_may_teach_with_averaged_statistics():
  info = dataclasses.replace(toys.INFO, pad=0, flip=False)
  setup = toys.recipe(Watched(), num_peers=2, info=info)
  state = runs.start(setup)
  step_fn = runs.jitted(setup, state)
  evaluate = jax.jit(functools.partial(setup.peers.apply, train=False))
  averaged = jax.device_get(state.average.memory["peers"])
  for step in range(3):
    given = toys.batch(step)
    before = state_lib.variables(
      state.average.params, state.average.memory, "peers"
    )
    images = (given.image / np.float32(255) - info.mean[0]) / info.std[0]
    expected, _ = evaluate(before, images, jax.random.key(0))
    expected = np.mean(expected.logits, 1)
    batch = runs.on_mesh(setup, given)
    state, measured = step_fn(state, batch, jax.random.key(1))
    np.testing.assert_allclose(
      measured["summaries"]["said"], expected, rtol=1e-4, atol=1e-5
    )
    phi = min(step / (step + 1), 0.6)
    averaged = jax.tree.map(
      lambda old, new, phi=phi: phi * old + (1 - phi) * np.asarray(new),
      averaged,
      state.memory["peers"],
    )
  assert jax.tree.leaves(averaged)
  jax.tree.map(
    lambda found, mean: np.testing.assert_allclose(found, mean, rtol=1e-5),
    state.average.memory["peers"],
    averaged,
  )


def test_pcl_has_averaged_statistics_on_request():
  assert not methods.make("pcl").needs.average_statistics
  assert methods.make("pcl", ema_bn="average").needs.average_statistics


class Narrow(nn.Module):
  """Keeps its parameters in bfloat16."""

  @nn.compact
  def __call__(self, x, *, train):
    del train
    flat = x.reshape(len(x), -1)
    return nn.Dense(toys.INFO.num_classes, param_dtype=jnp.bfloat16)(flat)


def test_averages_keep_the_types_of_what_they_average():
  setup = toys.recipe("dml", num_peers=2, net=Narrow(), ema_decay=0.9)
  before = state_lib.abstract(setup, jax.random.key(0))
  after, _ = jax.eval_shape(
    lambda *given: training.train_step(setup, *given),
    *(before, toys.batch(0), jax.random.key(1)),
  )
  types = [
    jax.tree.map(lambda leaf: leaf.dtype, each.average)
    for each in (before, after)
  ]
  assert jnp.bfloat16 in jax.tree.leaves(types[0])
  assert types[0] == types[1]


def test_summaries_of_any_type_are_means_over_steps():
  setup = toys.recipe(Normed(), num_peers=2, net=toys.Quick())
  state = runs.start(setup)
  step_fn = runs.jitted(setup, state)
  batch = runs.on_mesh(setup, toys.batch(0))
  state, sums = step_fn(state, batch, jax.random.key(1))
  for _ in range(299):
    state, measured = step_fn(state, batch, jax.random.key(1))
    sums = measures_lib.add(sums, measured)
  found = measures_lib.means(sums, 300)["summaries"]
  # Sums in bfloat16 would end at 256.
  assert {name: float(v) for name, v in found.items()} == {
    "is_even": 0.5,
    "one": 1.0,
  }
