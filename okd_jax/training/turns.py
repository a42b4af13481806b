"""Applies updates only to peers whose turn it is and that are not paused."""

from typing import Any

import jax
import jax.numpy as jnp

from okd_jax.core import Array
from okd_jax.training import state as state_lib
from okd_jax.training.setup import Setup


def take(
  setup: Setup, before: Any, after: Any, turn: int | None, paused: Array | None
) -> Any:
  """Takes the values of some peers from `after`, the others' from `before`.

  Values that belong to no peer are also taken from `after`, except for counts
  of the optimiser in all turns but the last, as all turns form one step.

  Args:
    setup: what stays fixed during the run.
    before: parameters, memory and state of the optimiser.
    after: the same after an update of all peers.
    turn: the only peer whose turn it is; None if it is the turn of all.
    paused: bool [P], peers that are not trained; None if all are.
  """
  if turn is None and paused is None:
    return after
  peers = jnp.arange(setup.peers.num_peers)
  trained = remembers = peers >= 0 if turn is None else peers == turn
  if paused is not None:
    trained = trained & ~paused
    remembers = trained if setup.method.pauses_memory else remembers
  params, memory, opt_state = before
  by_params, by_memory = state_lib.owners(setup, params, memory)
  by_state = state_lib.like_params(
    opt_state, params, by_params, otherwise=range(0)
  )

  def select(chosen, owners, before, after):
    def select_leaf(peers, old, new):
      if not peers:
        return new
      taken = chosen[peers.start : peers.stop]
      return jnp.where(taken.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    return jax.tree.map(select_leaf, owners, before, after)

  params, opt_state = select(
    trained, (by_params, by_state), (params, opt_state), (after[0], after[2])
  )
  memory = select(remembers, by_memory, memory, after[1])
  turns = setup.method.turns(setup.peers.num_peers)
  if turn != turns[-1]:
    opt_state = _with_counts(opt_state, before[2], params)
  return params, memory, opt_state


def _with_counts(opt_state: Any, source: Any, params: Any) -> Any:
  """An optimiser's state with what belongs to no parameter from `source`."""
  belongs = state_lib.like_params(
    opt_state, params, jax.tree.map(lambda _: True, params), otherwise=False
  )
  return jax.tree.map(
    lambda kept, new, old: new if kept else old, belongs, opt_state, source
  )
