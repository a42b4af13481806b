"""The objective of feature fusion learning."""

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
  Scalar,
  weighted,
)
from okd_jax.losses._labels import as_labels


def ffl(
  subnet_logits: Array,
  fused_logits: Array,
  labels: Array,
  *,
  temperature: Scalar = 3.0,
  kd_weight: Scalar = 1.0,
  eps: float = 0.0,
) -> dict[str, Array]:
  """Loss terms of FFL: sub-networks and a fused classifier teach each other.

  The fused classifier teaches every sub-network (fusion distillation); the
  mean of the sub-networks' logits teaches the fused classifier (ensemble
  distillation). Targets never carry gradient. The loss is the sum over terms
  and peers of the mean over examples.

  Args:
    subnet_logits: float [P, B, C].
    fused_logits: logits of the fused classifier, float [B, C].
    labels: class indices, integer [B], or probabilities, float [B, C].
    temperature: positive scalar.
    kd_weight: scalar weight of both distillation terms, ramp-up included.
    eps: added to the softened targets, see `softened_kl`; 1e-7 in the
      published code.

  Returns:
    Weighted terms: "peer_ce" [P, B], "ensemble_ce" [B] (of the fused
    classifier), "peer_kd" [P, B] (fused to sub-networks), "ensemble_kd" [B]
    (mean of sub-networks to fused).

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.
    ValueError: for no sub-network or an invalid temperature.

  References:
    Kim et al., `Feature Fusion for Online Mutual Knowledge Distillation
    <https://arxiv.org/abs/1904.09058>`_, ICPR 2020.

  >>> subnets, fused = jnp.zeros((3, 2, 5)), jnp.zeros((2, 5))
  >>> terms = ffl(subnets, fused, jnp.array([0, 1]))
  >>> sorted(terms)
  ['ensemble_ce', 'ensemble_kd', 'peer_ce', 'peer_kd']
  """
  check_temperature("ffl", temperature)
  check_not_negative("ffl", "eps", eps)
  check_weights("ffl", kd_weight=kd_weight)
  subnet_logits, fused_logits = as_floats(
    "ffl",
    subnet_logits=(subnet_logits, "P B C"),
    fused_logits=(fused_logits, "B C"),
  )
  check_peers("ffl", "subnet_logits", subnet_logits, at_least=1)
  labels = as_labels("ffl", labels, subnet_logits)
  fused_target = jax.lax.stop_gradient(fused_logits)
  mean_target = jax.lax.stop_gradient(jnp.mean(subnet_logits, axis=0))
  to_subnets = kl(subnet_logits, fused_target, temperature, eps)
  to_fused = kl(fused_logits, mean_target, temperature, eps)
  return {
    "peer_ce": nll(subnet_logits, labels),
    "ensemble_ce": nll(fused_logits, labels),
    "peer_kd": weighted(kd_weight, to_subnets),
    "ensemble_kd": weighted(kd_weight, to_fused),
  }
