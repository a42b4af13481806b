"""Peers that are updated one after another."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from okd_jax.training import state as state_lib
from okd_jax.training.setup import Setup


def only_peer(
  setup: Setup, peer: int, before: Any, after: Any, *, is_last: bool
) -> Any:
  """Takes what belongs to one peer from `after` and the rest from `before`.

  What belongs to no peer is taken from `after`, too, except for counts of the
  optimiser: all turns are one step.

  Args:
    setup: what stays fixed.
    peer: whose turn it is.
    before: parameters, memory and state of the optimiser.
    after: the same after an update of all peers.
    is_last: whether it is the last turn of the step.
  """
  params, memory, opt_state = before
  by_params, by_memory = state_lib.owners(setup, params, memory)
  by_state = state_lib.like_params(
    setup, opt_state, by_params, otherwise=range(0)
  )

  def select(peers, old, new):
    if not peers:
      return new
    is_peer = jnp.asarray(peers) == peer
    return jnp.where(is_peer.reshape(-1, *[1] * (old.ndim - 1)), new, old)

  params, memory, opt_state = jax.tree.map(
    select, (by_params, by_memory, by_state), before, after
  )
  if not is_last:
    opt_state = _with_counts(setup, opt_state, before[2])
  return params, memory, opt_state


def _with_counts(setup: Setup, opt_state: Any, source: Any) -> Any:
  """An optimiser's state with what belongs to no parameter from `source`."""
  belongs = optax.tree.map_params(
    setup.optimizer,
    lambda _: True,
    opt_state,
    transform_non_params=lambda _: False,
    is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode),
  )
  return jax.tree.map(
    lambda kept, new, old: new if kept else old, belongs, opt_state, source
  )
