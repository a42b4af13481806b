"""The objective of KDCL and its four rules for the common target."""

import chex
import jax
import jax.numpy as jnp

from okd_jax.losses._divergences import cross_entropy, softened_kl
from okd_jax.losses._inputs import (
  Array,
  as_float,
  check_logits,
  Scalar,
  weighted,
)
from okd_jax.losses._mixture import best_mixture
from okd_jax.losses._peers import HIGHEST


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
    logits: float [P, B, C], each peer on its own view.
    target_logits: float [B, C], from one of the `kdcl_*_target` functions;
      never given a gradient.
    labels: class indices, integer [B].
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
  check_logits(logits, labels)
  chex.assert_shape(target_logits, logits.shape[1:])
  target = jax.lax.stop_gradient(target_logits)
  kl = softened_kl(logits, target, temperature=temperature)
  return {
    "peer_ce": cross_entropy(logits, labels),
    "peer_kd": weighted(kd_weight, kl),
  }


def kdcl_naive_target(logits: Array, labels: Array) -> Array:
  """For every example, the logits of the peer with the least cross-entropy.

  Args:
    logits: float [P, B, C].
    labels: class indices, integer [B].

  Returns:
    [B, C] without gradient; the first peer wins a tie.

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.

  References:
    Guo et al., "Online Knowledge Distillation via Collaborative Learning",
    CVPR 2020, KDCL-Naive.

  >>> logits = jnp.array([[[0.0, 1.0]], [[0.0, 3.0]]])
  >>> kdcl_naive_target(logits, jnp.array([1])).tolist()
  [[0.0, 3.0]]
  """
  check_logits(logits, labels)
  logits = jax.lax.stop_gradient(as_float(logits))
  best = jnp.argmin(cross_entropy(logits, labels), axis=0)
  return jnp.take_along_axis(logits, best[None, :, None], axis=0)[0]


def kdcl_linear_target(logits: Array, labels: Array) -> Array:
  r"""For every example, the convex combination of least cross-entropy.

  Solves :math:`\min_\alpha \mathrm{CE}(\sum_i \alpha_i z_i, y)` over the
  simplex. In float64 the result is exact to about 1e-9, in float32 to about
  1e-5 of the spread of the logits.

  Args:
    logits: float [P, B, C], C of at least 2.
    labels: class indices, integer [B].

  Returns:
    [B, C] without gradient.

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.

  References:
    Guo et al., "Online Knowledge Distillation via Collaborative Learning",
    CVPR 2020, KDCL-Linear.

  >>> logits = jnp.array([[[0.0, 3.0, 0.0]], [[0.0, 0.0, 3.0]]])
  >>> target = kdcl_linear_target(logits, jnp.array([0]))
  >>> [f"{value:.3f}" for value in target[0]]
  ['0.000', '1.500', '1.500']
  """
  check_logits(logits, labels)
  logits = jax.lax.stop_gradient(as_float(logits))
  weights = best_mixture(logits, labels)
  return jnp.einsum("bp,pbc->bc", weights, logits, precision=HIGHEST)


def kdcl_minlogit_target(logits: Array, labels: Array) -> Array:
  """The least logit of every class, counted from the true class's logit.

  Args:
    logits: float [P, B, C].
    labels: class indices, integer [B].

  Returns:
    [B, C] without gradient; 0 at the true class.

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.

  References:
    Guo et al., "Online Knowledge Distillation via Collaborative Learning",
    CVPR 2020, KDCL-MinLogit.

  >>> logits = jnp.array([[[1.0, 3.0, 0.0]], [[0.0, 0.0, 3.0]]])
  >>> kdcl_minlogit_target(logits, jnp.array([0])).tolist()
  [[0.0, 0.0, -1.0]]
  """
  check_logits(logits, labels)
  logits = jax.lax.stop_gradient(as_float(logits))
  true_logits = jnp.take_along_axis(logits, labels[None, :, None], axis=-1)
  return jnp.min(logits - true_logits, axis=0)


def kdcl_general_weights(
  probs: Array, labels: Array, *, ridge: float = 0.0
) -> Array:
  r"""Weights of the peers with the least estimated generalisation error.

  With :math:`C_{ij}` the mean over held-out examples of the inner product of
  the errors :math:`f_i - t` and :math:`f_j - t`, the weights are
  :math:`C^{-1} 1 / (1^\top C^{-1} 1)`. They may be negative.

  Args:
    probs: predictions on held-out examples, float [P, N, C].
    labels: class indices, integer [N].
    ridge: added to the diagonal, as a fraction of its mean, for peers so
      alike that C is singular; raised to what the dtype can resolve unless 0.

  Returns:
    [P] without gradient, with sum one.

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.

  References:
    Guo et al., "Online Knowledge Distillation via Collaborative Learning",
    CVPR 2020, KDCL-General.

  >>> probs = jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [1.0, 0.0]]])
  >>> kdcl_general_weights(probs, jnp.array([0, 0])).round(3)
  Array([0.2, 0.8], dtype=float32)
  """
  check_logits(probs, labels)
  probs = jax.lax.stop_gradient(as_float(probs))
  num_peers, num_examples, num_classes = probs.shape
  errors = probs - jax.nn.one_hot(labels, num_classes, dtype=probs.dtype)
  correlation = jnp.einsum("inc,jnc->ij", errors, errors, precision=HIGHEST)
  correlation /= num_examples
  if ridge:
    ridge = max(ridge, 4 * float(jnp.finfo(probs.dtype).eps))
  identity = jnp.eye(num_peers, dtype=probs.dtype)
  correlation += ridge * jnp.trace(correlation) / num_peers * identity
  shares = jnp.linalg.solve(correlation, jnp.ones(num_peers, probs.dtype))
  return shares / jnp.sum(shares)


def kdcl_general_target(logits: Array, weights: Array) -> Array:
  """The weighted sum of the peers' logits.

  Args:
    logits: float [P, B, C].
    weights: from `kdcl_general_weights`, float [P].

  Returns:
    [B, C] without gradient.

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.

  References:
    Guo et al., "Online Knowledge Distillation via Collaborative Learning",
    CVPR 2020, KDCL-General.

  >>> logits = jnp.array([[[2.0, 0.0]], [[0.0, 4.0]]])
  >>> kdcl_general_target(logits, jnp.array([0.5, 0.5])).tolist()
  [[1.0, 2.0]]
  """
  chex.assert_rank(logits, 3)
  chex.assert_shape(weights, (logits.shape[0],))
  logits, weights = jax.lax.stop_gradient((as_float(logits), as_float(weights)))
  return jnp.einsum("p,pbc->bc", weights, logits, precision=HIGHEST)
