"""Paused peers: what moves them and what does not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from okd_jax import core, groups, losses
from okd_jax.devices import mesh as mesh_lib
from okd_jax.groups.layout import Stack
from okd_jax.training import state as state_lib, step as steps
import runs
import toys


class Pausing(core.Method):
  """Peers learn alone; in every second step the first two are paused."""

  statistics: bool = core.flag(False)
  in_turn: bool = core.flag(False)

  @property
  def needs(self):
    return core.Needs(kind="replicas")

  @property
  def pauses_memory(self):
    return self.statistics

  def turns(self, num_peers):
    return tuple(range(num_peers)) if self.in_turn else (None,)

  def __call__(self, outputs, batch, ctx):
    first = jnp.arange(len(outputs.logits)) < 2
    terms = {"peer_ce": losses.cross_entropy(outputs.logits, batch.target)}
    return core.MethodOutput(terms, paused=first & (ctx.step % 2 == 1))


class PausingByBatch(Pausing):
  """The first peer is always paused, the second in parts with image 0."""

  def __call__(self, outputs, batch, ctx):
    result = super().__call__(outputs, batch, ctx)
    first = jnp.any(batch.index == 0)
    paused = jnp.stack([jnp.array(True), first, jnp.array(False)])
    return result.replace(paused=paused)


def states(setup, num_steps=3):
  """The state before every step and after the last, on the host."""
  state = runs.start(setup)
  step, found = runs.jitted(setup, state), [jax.device_get(state)]
  for i in range(num_steps):
    batch = runs.on_mesh(setup, toys.batch(i, setup.batch_size))
    state, _ = step(state, batch, jax.random.key(1))
    found.append(jax.device_get(state))
  return found


def moved(before, after, setup):
  """For parameters, memory and momentum: which peers have changed."""
  by_params, by_memory = state_lib.owners(setup, before.params, before.memory)
  by_state = state_lib.like_params(
    before.opt_state, before.params, by_params, otherwise=range(0)
  )
  found = []
  for name, owners in (
    ("params", by_params),
    ("memory", by_memory),
    ("opt_state", by_state),
  ):
    peers = np.zeros(setup.peers.num_peers, bool)

    def compare(own, old, new, peers=peers):
      for row, peer in enumerate(own):
        peers[peer] |= np.any(old[row] != new[row])

    jax.tree.map(compare, owners, getattr(before, name), getattr(after, name))
    found.append(peers.tolist())
  return found


ALL, LAST = [True] * 3, [False, False, True]


def group(*, different):
  mesh = mesh_lib.make_mesh(1, 1)
  if different:
    nets = [toys.Toy(5, width=width) for width in (8, 6)]
    return groups.mixed([Stack(nets[0], 2), nets[1]], mesh, "vmap")
  return groups.replicas(toys.Toy(5), 3, mesh, "vmap")


@pytest.mark.parametrize(
  ("statistics", "in_turn", "different"),
  [
    pytest.param(False, False, True, marks=pytest.mark.long),
    (True, False, False),
    pytest.param(True, True, True, marks=pytest.mark.long),
  ],
)
def test_nothing_moves_a_paused_peer(statistics, in_turn, different):
  setup = toys.recipe(
    Pausing(statistics, in_turn),
    peers=group(different=different),
    batch_size=8,
  )
  start, first, second, third = states(setup)
  assert moved(start, first, setup) == [ALL, ALL, ALL]
  memory = LAST if statistics else ALL
  assert moved(first, second, setup) == [LAST, memory, LAST]
  assert moved(second, third, setup) == [ALL, ALL, ALL]


def test_a_paused_step_is_as_if_it_had_not_been():
  """Against the optimiser alone, on the gradients of the other steps."""
  with jax.enable_x64(True):
    setup = toys.recipe(
      Pausing(),
      num_peers=3,
      net=toys.Quick(),
      mapping="vmap",
      dtype=jnp.float64,
    )
    found = states(setup)[-1]
    state = runs.start(setup)
    params, opt_state = state.params, state.opt_state
    for i in (0, 2):
      ctx = {"step": jnp.asarray(i, jnp.int32), "params": params}
      grads = gradient(setup)(dataclasses.replace(state, **ctx), i)
      updates, opt_state = setup.optimizer.update(
        grads, opt_state, params, learning_rate=setup.learning_rate(0)
      )
      params = optax.apply_updates(params, updates)
  for name in ("hidden", "head"):
    for leaf in ("kernel", "bias"):
      np.testing.assert_allclose(
        found.params["peers"][name][leaf][:2],
        params["peers"][name][leaf][:2],
        rtol=1e-12,
        atol=1e-14,
      )


def gradient(setup):
  @functools.partial(jax.jit, static_argnums=1)
  def of(state, i):
    def loss(params):
      batch = toys.batch(i, setup.batch_size)
      return steps.loss_fn(setup, params, state, batch, jax.random.key(1))[0]

    return jax.grad(loss)(state.params)

  return of


def test_a_peer_is_paused_that_is_in_every_part_of_a_batch():
  setup = toys.recipe(
    PausingByBatch(), num_peers=3, net=toys.Quick(), mapping="vmap"
  )
  split = dataclasses.replace(setup, accumulate=2)
  for made, expected in ((setup, LAST), (split, [False, True, True])):
    before, after = states(made, 1)
    params, _, opt_state = moved(before, after, made)
    assert params == opt_state == expected


def test_an_optimizer_that_counts_steps_counts_paused_ones():
  setup = dataclasses.replace(
    toys.recipe(Pausing(), num_peers=3, net=toys.Quick(), mapping="vmap"),
    optimizer=optax.adam(1e-2),
    learning_rate=None,
  )
  _, first, second = states(setup, 2)
  assert moved(first, second, setup)[::2] == [LAST, LAST]
  assert int(optax.tree.get(second.opt_state, "count")) == 2


@pytest.mark.long
def test_all_meshes_agree():
  with jax.enable_x64(True):
    expected, start = None, None
    for data, peer in ((1, 1), (2, 2)):
      setup = toys.recipe(
        Pausing(),
        data=data,
        peer=peer,
        net=toys.Quick(),
        mapping="vmap",
        dtype=jnp.float64,
      )
      if expected is None:
        start = jax.device_get(runs.start(setup))
        expected = runs.train_from(setup, start, 2)
      else:
        runs.assert_close(runs.train_from(setup, start, 2), expected, 1e-9)
