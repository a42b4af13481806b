"""Stops a run whose numbers are no longer finite."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from okd_jax import trees
from okd_jax.devices import mesh
from okd_jax.errors import NotFiniteError
from okd_jax.tasks.figure import element
from okd_jax.training import measures
from okd_jax.training.state import like_params, TrainState


def check_measures(step: int, measured: Mapping[str, Any]) -> dict[str, float]:
  """Turns measures into named numbers.

  Args:
    step: the step, for the message.
    measured: measures, as from `okd_jax.training.step.train_step`, of one step,
      or means over the steps since the last record.

  Returns:
    `loss`, every term summed over peers, the task's headline averaged over
    peers, `learning_rate` if it is known, `rampup`, `gradient_norm`, and the
    method's summaries with one entry per element, such as `attention/0/1`.

  Raises:
    NotFiniteError: naming term, peer and step.
  """
  host = mesh.to_host(measured)
  for name, value in host["terms"].items():
    bad = np.flatnonzero(~np.isfinite(np.atleast_1d(value)))
    if len(bad):
      where = f" of peer {bad[0]}" if np.ndim(value) else ""
      raise NotFiniteError(
        f"'{name}'{where} is {np.atleast_1d(value)[bad[0]]} by step {step}. "
        "Lower config.optim.learning_rate, or look at the images; the last "
        "checkpoint stands."
      )
  if not np.isfinite(host["gradient_norm"]):
    raise NotFiniteError(
      f"the gradient's norm is {host['gradient_norm']} by step {step}. Lower "
      "config.optim.learning_rate; the last checkpoint stands."
    )
  terms = {name: float(np.sum(v)) for name, v in host["terms"].items()}
  record = {"loss": sum(terms.values()), **terms}
  for name, value in host["figures"].items():
    record[name] = float(np.mean(value))
  for name in measures.SCALARS:
    if name in host:
      record[name] = float(host[name])
  for name, value in host["summaries"].items():
    for index in np.ndindex(value.shape):
      record[element(name, index)] = float(value[index])
  return record


def check_state(step: int, state: TrainState) -> None:
  """Raises NotFiniteError, naming the array, unless a state is all finite.

  Of the optimiser's state only what it keeps for a parameter is looked at. The
  rest may be infinite, such as the best loss before the first one is known.
  """
  kept = _of_parameters(state)
  finite = _all_finite(dataclasses.replace(state, opt_state=kept))
  for name, leaf in trees.named(mesh.to_host(finite)):
    if not np.all(leaf):
      peers = np.flatnonzero(~np.atleast_1d(leaf))
      raise NotFiniteError(
        f"state/{name} is not finite (index {peers[0]} of its first axis) "
        f"after step {step}, and is not saved. Lower "
        "config.optim.learning_rate; the last checkpoint stands."
      )


def _of_parameters(state: TrainState) -> Any:
  """The optimiser's state without the arrays that belong to no parameter."""
  every = jax.tree.map(lambda _: True, state.params)
  belongs = like_params(state.opt_state, state.params, every, otherwise=False)
  return jax.tree.map(
    lambda leaf, kept: leaf if kept else None, state.opt_state, belongs
  )


@jax.jit
def _all_finite(tree: Any) -> Any:
  """For every leaf, which entries along its first axis are all finite."""

  def finite(leaf):
    return jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim)))

  return jax.tree.map(finite, tree)
