"""The objective of KDCL and its four rules for the common target."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from okd_jax.losses._divergences import kl, nll
from okd_jax.losses._inputs import (
  Array,
  as_floats,
  check_not_negative,
  check_peers,
  check_temperature,
  check_weights,
  refuse,
  Scalar,
  weighted,
)
from okd_jax.losses._labels import as_labels, as_probabilities
from okd_jax.losses._mixture import best_mixture, mean_logit
from okd_jax.losses._peers import weighted_sum


def kdcl(
  logits: Array,
  target_logits: Array,
  labels: Array,
  *,
  temperature: Scalar = 2.0,
  kd_weight: Scalar = 1.0,
) -> dict[str, Array]:
  """Loss terms of KDCL: every peer learns from one common target.

  The loss is the sum over terms and peers of the mean over examples.

  Args:
    logits: logits of the peers, each on its own view, float [P, B, C].
    target_logits: the target of one of the `kdcl_*_target` functions, float
      [B, C]; never given a gradient.
    labels: class indices, integer [B], or probabilities, float [B, C].
    temperature: positive scalar.
    kd_weight: scalar weight of the distillation term.

  Returns:
    Weighted terms "peer_ce" and "peer_kd", [P, B] each.

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.
    ValueError: for an invalid temperature.

  References:
    Guo et al., "Online Knowledge Distillation via Collaborative Learning",
    CVPR 2020.

  >>> logits, labels = jnp.zeros((3, 2, 5)), jnp.array([0, 1])
  >>> target = kdcl_minlogit_target(logits, labels)
  >>> kdcl(logits, target, labels)["peer_kd"].shape
  (3, 2)
  """
  check_temperature("kdcl", temperature)
  check_weights("kdcl", kd_weight=kd_weight)
  logits, target_logits = as_floats(
    "kdcl", logits=(logits, "P B C"), target_logits=(target_logits, "B C")
  )
  labels = as_labels("kdcl", labels, logits)
  target = jax.lax.stop_gradient(target_logits)
  from_target = kl(logits, target, temperature)
  return {
    "peer_ce": nll(logits, labels),
    "peer_kd": weighted(kd_weight, from_target),
  }


def kdcl_naive_target(logits: Array, labels: Array) -> Array:
  """For every example, the logits of the peer with the lowest cross-entropy.

  Labels that are probabilities give the cross-entropy with them.

  Args:
    logits: float [P, B, C].
    labels: class indices, integer [B], or probabilities, float [B, C].

  Returns:
    [B, C] without gradient; the first peer wins a tie. nan for an index out of
    range.

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.
    ValueError: if there is no peer.

  References:
    Guo et al., "Online Knowledge Distillation via Collaborative Learning",
    CVPR 2020, KDCL-Naive.

  >>> logits = jnp.array([[[0.0, 1.0]], [[0.0, 3.0]]])
  >>> kdcl_naive_target(logits, jnp.array([1])).tolist()
  [[0.0, 3.0]]
  """
  logits, labels = _constants("kdcl_naive_target", logits, labels)
  entropies = nll(logits, labels)
  best = jnp.argmin(entropies, axis=0)
  target = jnp.take_along_axis(logits, best[None, :, None], axis=0)[0]
  unknown = jnp.any(jnp.isnan(entropies), axis=0)
  return jnp.where(unknown[:, None], math.nan, target)


def _constants(function: str, logits: Any, labels: Any) -> tuple[Array, Array]:
  """Checked logits [P, B, C] and labels, both without gradient."""
  (logits,) = as_floats(function, logits=(logits, "P B C"))
  check_peers(function, "logits", logits, at_least=1)
  labels = as_labels(function, labels, logits)
  return jax.lax.stop_gradient(logits), jax.lax.stop_gradient(labels)


def kdcl_linear_target(
  logits: Array, labels: Array, *, scope: str = "sample"
) -> Array:
  r"""The convex combination of the peers' logits of lowest cross-entropy.

  Solves :math:`\min_\alpha \mathrm{CE}(\sum_i \alpha_i z_i, y)` over the
  simplex, for every example by itself or for the mean over the batch. In
  float64 the weights of an example are exact to about 1e-9, in float32 to about
  1e-5 of the spread of the logits. Labels that are probabilities must sum to
  one here, and give the cross-entropy with them. A class that a peer masks is
  left out, and is masked in the target.

  Args:
    logits: float [P, B, C].
    labels: class indices, integer [B], or probabilities, float [B, C].
    scope: what has weights of its own: every "sample", or the whole "batch".

  Returns:
    [B, C] without gradient; nan for an index out of range, and everywhere if
    the batch has common weights.

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.
    ValueError: if there is no peer, and for an unknown `scope`.

  References:
    Guo et al., "Online Knowledge Distillation via Collaborative Learning",
    CVPR 2020, KDCL-Linear.

  >>> logits = jnp.array([[[0.0, 3.0, 0.0]], [[0.0, 0.0, 3.0]]])
  >>> target = kdcl_linear_target(logits, jnp.array([0]))
  >>> [f"{value:.3f}" for value in target[0]]
  ['0.000', '1.500', '1.500']
  """
  if scope not in ("sample", "batch"):
    refuse("kdcl_linear_target", "scope", "'sample' or 'batch'", f"{scope!r}")
  logits, labels = _constants("kdcl_linear_target", logits, labels)
  probs = as_probabilities(labels, logits.shape[-1], logits.dtype)
  weights = best_mixture(logits, probs, together=scope == "batch")
  if scope == "batch":
    return weighted_sum("p,pbc->bc", weights[0], logits)
  return weighted_sum("bp,pbc->bc", weights, logits)


def kdcl_minlogit_target(logits: Array, labels: Array) -> Array:
  """The lowest logit of every class, relative to the true class's logit.

  If labels are probabilities y, logits are relative to the mean logit, the sum
  over classes of y_c z_c. In both cases, the cross-entropy of a peer is the
  logarithm of the sum of the exponentials of these relative logits.

  Args:
    logits: float [P, B, C].
    labels: class indices, integer [B], or probabilities, float [B, C].

  Returns:
    [B, C] without gradient; 0 at the true class, nan for an index out of
    range.

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.
    ValueError: if there is no peer.

  References:
    Guo et al., "Online Knowledge Distillation via Collaborative Learning",
    CVPR 2020, KDCL-MinLogit.

  >>> logits = jnp.array([[[1.0, 3.0, 0.0]], [[0.0, 0.0, 3.0]]])
  >>> kdcl_minlogit_target(logits, jnp.array([0])).tolist()
  [[0.0, 0.0, -1.0]]
  """
  logits, labels = _constants("kdcl_minlogit_target", logits, labels)
  probs = as_probabilities(labels, logits.shape[-1], logits.dtype)
  return jnp.min(logits - mean_logit(logits, probs), axis=0)


def kdcl_general_weights(
  probs: Array, labels: Array, *, ridge: float = 0.0, clip: bool = False
) -> Array:
  r"""Weights of the peers with the lowest estimated generalisation error.

  With :math:`C_{ij}` the mean over held-out examples of the inner product of
  the errors :math:`f_i - t` and :math:`f_j - t`, the weights are
  :math:`C^{-1} 1 / (1^\top C^{-1} 1)`. They may be negative unless they are
  clipped. The target t is the labels as probabilities.

  Args:
    probs: predictions on held-out examples, float [P, N, C].
    labels: class indices, integer [N], or probabilities, float [N, C].
    ridge: constant added to the diagonal of C, as a fraction of its mean, for
      peers so similar that C is singular; raised to what the dtype can resolve
      unless it is 0. If not 0, peers without any error get equal weights.
    clip: whether negative weights become 0, and the others are divided by their
      sum. The paper does not say so.

  Returns:
    [P] without gradient, with sum one; nan for an index out of range.

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.
    ValueError: if there is no peer.

  References:
    Guo et al., "Online Knowledge Distillation via Collaborative Learning",
    CVPR 2020, KDCL-General.

  >>> probs = jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [1.0, 0.0]]])
  >>> kdcl_general_weights(probs, jnp.array([0, 0])).round(3)
  Array([0.2, 0.8], dtype=float32)
  """
  check_not_negative("kdcl_general_weights", "ridge", ridge)
  (probs,) = as_floats("kdcl_general_weights", probs=(probs, "P N C"))
  check_peers("kdcl_general_weights", "probs", probs, at_least=1)
  labels = as_labels("kdcl_general_weights", labels, probs)
  probs, labels = jax.lax.stop_gradient((probs, labels))
  num_peers, num_examples, num_classes = probs.shape
  errors = probs - as_probabilities(labels, num_classes, probs.dtype)
  # In units of the largest one, as the squares of tiny errors would underflow.
  largest = jnp.max(jnp.abs(errors))
  errors /= jnp.where(largest == 0, 1, largest)
  # Sums, not a product of matrices: on an explicit mesh that does not say how
  # its result lies if the examples are spread over devices.
  rows = [jnp.sum(errors * errors[i], axis=(1, 2)) for i in range(num_peers)]
  correlation = jnp.stack(rows) / num_examples
  if ridge:
    ridge = max(ridge, 4 * float(jnp.finfo(probs.dtype).eps))
  unit = jnp.trace(correlation) / num_peers
  # Peers without any error get equal shares.
  unit = jnp.where(unit == 0, 1, unit)
  correlation += ridge * unit * jnp.eye(num_peers, dtype=probs.dtype)
  shares = jnp.linalg.solve(correlation, jnp.ones(num_peers, probs.dtype))
  weights = shares / jnp.sum(shares)
  if clip:
    weights = jnp.maximum(weights, 0)
    weights /= jnp.sum(weights)
  return weights


def kdcl_general_target(logits: Array, weights: Array) -> Array:
  """The weighted sum of the peers' logits.

  Args:
    logits: float [P, B, C].
    weights: from `kdcl_general_weights`, float [P].

  Returns:
    [B, C] without gradient.

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.
    ValueError: if there is no peer.

  References:
    Guo et al., "Online Knowledge Distillation via Collaborative Learning",
    CVPR 2020, KDCL-General.

  >>> logits = jnp.array([[[2.0, 0.0]], [[0.0, 4.0]]])
  >>> kdcl_general_target(logits, jnp.array([0.5, 0.5])).tolist()
  [[1.0, 2.0]]
  """
  logits, weights = as_floats(
    "kdcl_general_target", logits=(logits, "P B C"), weights=(weights, "P")
  )
  check_peers("kdcl_general_target", "logits", logits, at_least=1)
  logits, weights = jax.lax.stop_gradient((logits, weights))
  return weighted_sum("p,pbc->bc", weights, logits)
