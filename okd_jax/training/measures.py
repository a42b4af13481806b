"""Means of measures over the steps since they were recorded.

The sums are computed where the steps run, one step after another, so that they
do not depend on the number of steps in one call.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from okd_jax.devices import mesh

Measures = dict[str, Any]  # as from `okd_jax.training.step.train_step`

# These follow from the step; a record holds their last value. The learning rate
# is not always known.
_LAST = ("learning_rate", "rampup")
# What one number says of all peers.
SCALARS = (*_LAST, "gradient_norm")


def add(sums: Measures, measured: Measures) -> Measures:
  """Adds the measures of one more step; to be traced."""
  total = jax.tree.map(jnp.add, sums, measured)
  return total | _last(measured)


def means(sums: Measures, count: int) -> Measures:
  """Means on the host from the sums over `count` steps."""
  host: Measures = mesh.to_host(sums)

  def mean(total):
    return total / np.asarray(count, total.dtype)

  return jax.tree.map(mean, host) | _last(host)


def _last(measured: Measures) -> Measures:
  return {name: measured[name] for name in _LAST if name in measured}


def to_json(sums: Measures, count: int) -> dict[str, Any]:
  """Sums as JSON values, exactly; nothing if one of them is not finite."""
  leaves = jax.tree.leaves(mesh.to_host(sums))
  if not all(np.all(np.isfinite(leaf)) for leaf in leaves):
    return {}
  return {"count": count, "sums": [leaf.tolist() for leaf in leaves]}


def from_json(saved: Mapping[str, Any], like: Measures) -> tuple[Measures, int]:
  """The inverse of `to_json`, on the host; no steps if nothing was saved.

  Args:
    saved: the result of `to_json`.
    like: arrays or shapes, for the structure and types.
  """
  leaves, structure = jax.tree.flatten(like)
  if not saved:
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like), 0
  values = [
    np.asarray(value, leaf.dtype).reshape(leaf.shape)
    for value, leaf in zip(saved["sums"], leaves, strict=True)
  ]
  return jax.tree.unflatten(structure, values), int(saved["count"])
