"""The objective of ONE."""

import jax

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
from okd_jax.losses._peers import weighted_sum


def one(
  logits: Array,
  gate: Array,
  labels: Array,
  *,
  temperature: Scalar = 3.0,
  kd_weight: Scalar = 1.0,
  eps: float = 1e-7,
  stop_gradient: bool = False,
) -> dict[str, Array]:
  r"""Loss terms of ONE: a gated ensemble of branches teaches every branch.

  The ensemble is :math:`z_e = \sum_i g_i z_i`; the gate does not depend on the
  labels, and a class that a branch masks is masked in the ensemble. The loss is
  the sum over terms and peers of the mean over examples.

  Args:
    logits: logits of the branches, float [P, B, C].
    gate: weights of the branches, float [P, B]: probabilities that sum to one
      over P.
    labels: class indices, integer [B], or probabilities, float [B, C].
    temperature: positive scalar.
    kd_weight: scalar weight of the distillation term, ramp-up included.
    eps: added to the softened target, see `softened_kl`.
    stop_gradient: treats the ensemble as a constant where it is the target. The
      cross-entropy of the ensemble trains branches and gate in any case.

  Returns:
    Weighted terms: "peer_ce" [P, B], "ensemble_ce" [B], "peer_kd" [P, B].

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.
    ValueError: for no branch or an invalid temperature.

  References:
    Lan et al., `Knowledge Distillation by On-the-Fly Native Ensemble
    <https://arxiv.org/abs/1806.04606>`_, NeurIPS 2018.

  >>> import jax.numpy as jnp
  >>> logits, gate = jnp.zeros((3, 2, 5)), jnp.full((3, 2), 1 / 3)
  >>> terms = one(logits, gate, jnp.array([0, 1]))
  >>> {name: term.shape for name, term in sorted(terms.items())}
  {'ensemble_ce': (2,), 'peer_ce': (3, 2), 'peer_kd': (3, 2)}
  """
  check_temperature("one", temperature)
  check_not_negative("one", "eps", eps)
  check_weights("one", kd_weight=kd_weight)
  logits, gate = as_floats("one", logits=(logits, "P B C"), gate=(gate, "P B"))
  check_peers("one", "logits", logits, at_least=1)
  labels = as_labels("one", labels, logits)
  ensemble = weighted_sum("pb,pbc->bc", gate, logits)
  target = jax.lax.stop_gradient(ensemble) if stop_gradient else ensemble
  to_peers = kl(logits, target, temperature, eps)
  return {
    "peer_ce": nll(logits, labels),
    "ensemble_ce": nll(ensemble, labels),
    "peer_kd": weighted(kd_weight, to_peers),
  }
