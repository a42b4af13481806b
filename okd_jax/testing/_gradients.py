"""Checks of a method's gradients, without training."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from okd_jax import core
from okd_jax.testing import _checks, _outputs
from okd_jax.testing._outputs import P, random_outputs


def loss_is_finite(method: core.Method) -> None:
  """Loss and gradients are finite for logits of 1000, and in bfloat16."""
  if _is_finite(method, random_outputs(method, scale=1e3, dtype=jnp.bfloat16)):
    return
  labels = "" if _outputs.of_maps(method) else _labels(method)
  _checks.require(
    _is_finite(method, random_outputs(method)),
    method,
    f"has a loss or a gradient that is not finite for ordinary outputs{labels};"
    " do not divide by what may be 0, such as the number of examples of a "
    "class",
  )
  _checks.require(
    _is_finite(method, random_outputs(method, scale=1e3)),
    method,
    "has a loss or a gradient that is not finite for logits of 1000; take "
    "jax.nn.log_softmax instead of the logarithm of a softmax",
  )
  _checks.require(
    False,
    method,
    "has a loss or a gradient that is not finite for features and maps in "
    "bfloat16; compute losses of them in float32",
  )


def _labels(method: core.Method) -> str:
  labels = np.asarray(_outputs.random_batch(method).target)
  return f" and the labels {' '.join(map(str, labels))} of {_outputs.C} classes"


def gradients_reach_the_peers(method: core.Method) -> None:
  """Some term trains some peer."""
  by_peer, others = _jacobian(method)
  live = [
    dataclasses.replace(by_outputs, ema=None, teacher=None)
    for by_outputs in (*by_peer.values(), *others.values())
  ]
  _checks.require(
    any(np.any(leaf) for leaf in jax.tree.leaves(live)),
    method,
    "trains nothing: no term has a gradient by the peers' outputs; look for "
    "jax.lax.stop_gradient, argmax and comparisons",
  )


def targets_are_constant_unless_joint(method: core.Method) -> None:
  """A row of a term trains only its own peer, unless the method is `joint`."""
  reached = _reach(method)
  if method.joint:
    _checks.require(
      any(np.any(rows) for rows in reached.values()),
      method,
      "is joint, but no term with a row a peer trains another peer; leave "
      "`joint` out",
    )
    return
  for name, rows in reached.items():
    _checks.require(
      not np.any(rows),
      method,
      f"is not joint, but '{name}' of one peer trains another; put "
      "jax.lax.stop_gradient around the target, or return True from `joint`",
    )


def averages_and_teachers_are_constant(method: core.Method) -> None:
  """No term sends gradient into averaged peers or teachers."""
  by_peer, others = _jacobian(method)
  for name, by_outputs in (by_peer | others).items():
    frozen = jax.tree.leaves((by_outputs.ema, by_outputs.teacher))
    _checks.require(
      not any(np.any(leaf) for leaf in frozen),
      method,
      f"sends gradient of '{name}' into averages or teachers; put "
      "jax.lax.stop_gradient around them",
    )


@functools.cache
def _jacobian(method: core.Method) -> tuple[dict[str, Any], dict[str, Any]]:
  """Jacobians of terms, summed over examples: with a row a peer, and others."""

  def losses_of_terms(seen):
    terms = _checks.apply(method, {}, seen).terms
    sums = {name: jnp.sum(term, -1) for name, term in terms.items()}
    return tuple(
      {name: s for name, s in sums.items() if s.ndim == ndim} for ndim in (1, 0)
    )

  jacobian = jax.jit(
    jax.jacrev(losses_of_terms), compiler_options=_outputs.QUICK
  )
  by_peer, others = jax.device_get(jacobian(random_outputs(method)))
  return by_peer, others


def _reach(method: core.Method) -> dict[str, np.ndarray]:
  """How much each row of a term affects peers other than its own."""
  reach = {}
  for name, by_outputs in _jacobian(method)[0].items():
    live = dataclasses.replace(by_outputs, trunk=None, ema=None, teacher=None)
    # [Q, P]: how much row q of the term sends into peer p.
    rows = np.asarray(
      sum(
        np.abs(leaf).sum(axis=tuple(range(2, leaf.ndim)))
        for leaf in jax.tree.leaves(live)
      )
    )
    if len(rows) == P:
      rows = rows - np.diag(np.diag(rows))
    else:
      # Terms of fewer peers name them by position only.
      rows = np.sort(rows, axis=1)[:, :-1]
    reach[name] = rows
  return reach


def _is_finite(method: core.Method, seen: core.Outputs) -> bool:
  """Whether loss and gradients are finite."""

  def loss(params, seen):
    return core.objective(_checks.apply(method, params, seen).terms)

  params = _checks.variables_of(method).get("params", {})
  found = jax.jit(
    jax.value_and_grad(loss, (0, 1)), compiler_options=_outputs.QUICK
  )(params, seen)
  return all(
    bool(np.all(np.isfinite(np.asarray(leaf, np.float32))))
    for leaf in jax.tree.leaves(found)
  )
