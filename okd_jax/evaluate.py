"""A full pass over a split, and the figures that come out of it."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from okd_jax import mesh, metrics
from okd_jax.core import Batch
from okd_jax.data import Source
from okd_jax.recipe import Recipe
from okd_jax.state import TrainState

EvalFn = Callable[[Any, Any, Batch], dict[str, Any]]
PredictFn = Callable[[Any, Any, Batch], tuple[jax.Array, dict[str, jax.Array]]]


def evaluate(
  recipe: Recipe,
  eval_fn: EvalFn,
  state: TrainState,
  batches: Callable[[], Iterable[Batch]],
) -> dict[str, float]:
  """Measures a group on every example of a split, each counted once.

  Args:
    recipe: what stays fixed.
    eval_fn: `okd_jax.steps.eval_step` with the recipe, jitted.
    state: what to evaluate. Averaged variables, where there are any, are
      measured too, under names that begin with "ema/".
    batches: gives the batches of the split from its start.

  Returns:
    Figures by name, see `okd_jax.metrics.figures`, for `leader` (the network
    that would be deployed), `peer_0`, `peer_1`, ..., `ensemble` (the mean of
    the members' logits) and the method's own group predictions;
    `peers_mean/accuracy`, the mean of the members' accuracies; `diversity`.
  """
  named = _measure(recipe, eval_fn, state.params, state.memory, batches)
  leader = f"peer_{range(recipe.peers.num_peers)[recipe.method.leader]}/"
  if state.average is not None:
    averaged = _measure(
      recipe, eval_fn, state.average.params, state.average.memory, batches
    )
    named |= {f"ema/{name}": value for name, value in averaged.items()}
    leader = f"ema/{leader}"
  deployed = {
    f"leader/{name.removeprefix(leader)}": value
    for name, value in named.items()
    if name.startswith(leader)
  }
  return deployed | named


def _measure(recipe, eval_fn, params, memory, batches):
  # Every batch is sent before the first result is waited for.
  pending = [eval_fn(params, memory, batch) for batch in batches()]
  total = metrics.total(pending)
  members = recipe.method.members(recipe.peers.num_peers)
  named: dict[str, float] = {}
  for peer in range(recipe.peers.num_peers):
    part = jax.tree.map(lambda s, i=peer: s[i] if s.ndim else s, total["peers"])
    named |= metrics.figures(part, f"peer_{peer}")
  for name, part in total["predictions"].items():
    named |= metrics.figures(part, name)
  named["peers_mean/accuracy"] = sum(
    named[f"peer_{peer}/accuracy"] for peer in members
  ) / len(members)
  count = max(int(total["peers"].count), 1)
  named["diversity"] = float(total["diversity"] / count)
  return named


def held_out_logits(
  predict_fn: PredictFn, state: TrainState, source: Source
) -> tuple[jax.Array, jax.Array]:
  """Logits [P, N, C] and labels [N] of the held-out examples, clean images."""
  logits, labels = [], []
  for batch in source.evaluation("held_out"):
    each, _ = predict_fn(state.params, state.memory, batch)
    each, label, mask = mesh.to_host((each, batch.label, batch.mask))
    logits.append(each[:, mask])
    labels.append(label[mask])
  return jnp.asarray(np.concatenate(logits, 1)), jnp.asarray(
    np.concatenate(labels)
  )
