"""The objective of peer collaborative learning."""

import jax

from okd_jax.losses._divergences import kl, nll
from okd_jax.losses._inputs import (
  Array,
  as_floats,
  check_peers,
  check_temperature,
  check_weights,
  Scalar,
  weighted,
)
from okd_jax.losses._labels import as_labels
from okd_jax.losses._peers import mean_over_others


def pcl(
  peer_logits: Array,
  ensemble_logits: Array,
  mean_teacher_logits: Array,
  labels: Array,
  *,
  temperature: Scalar = 3.0,
  kd_weight: Scalar = 1.0,
  stop_gradient: bool = True,
) -> dict[str, Array]:
  r"""Loss terms of PCL: an ensemble and the others' mean teachers.

  Peer j learns from the ensemble classifier and, averaged over
  :math:`l \ne j`, from the mean teacher of every other peer:
  :math:`\tau^2 \mathrm{KL}(z_t \| z_j)` and
  :math:`\frac{\tau^2}{P - 1} \sum_{l \ne j} \mathrm{KL}(\bar z_l \| z_j)`.
  The loss is the sum over terms and peers of the mean over examples.

  Args:
    peer_logits: logits of the peers, each on its own view, float [P, B, C].
    ensemble_logits: logits of the ensemble classifier, float [B, C].
    mean_teacher_logits: logits of the averaged peers, float [P, B, C]; never
      given a gradient.
    labels: class indices, integer [B], or probabilities, float [B, C].
    temperature: positive scalar.
    kd_weight: scalar weight of both distillation terms, ramp-up included.
    stop_gradient: treats the ensemble as a constant where it is the target.

  Returns:
    Weighted terms: "peer_ce" [P, B], "ensemble_ce" [B], "ensemble_kd" [P, B]
    (from the ensemble to the peers), "mean_teacher_kd" [P, B].

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.
    ValueError: for fewer than two peers or an invalid temperature.

  References:
    Wu & Gong, `Peer Collaborative Learning for Online Knowledge Distillation
    <https://arxiv.org/abs/2006.04147>`_, AAAI 2021, equations 1 and 2.

  >>> import jax.numpy as jnp
  >>> peers, ensemble = jnp.zeros((3, 2, 5)), jnp.zeros((2, 5))
  >>> terms = jax.jit(pcl)(peers, ensemble, peers, jnp.array([0, 1]))
  >>> sorted(terms)
  ['ensemble_ce', 'ensemble_kd', 'mean_teacher_kd', 'peer_ce']
  """
  check_temperature("pcl", temperature)
  check_weights("pcl", kd_weight=kd_weight)
  peer_logits, ensemble_logits, mean_teacher_logits = as_floats(
    "pcl",
    peer_logits=(peer_logits, "P B C"),
    ensemble_logits=(ensemble_logits, "B C"),
    mean_teacher_logits=(mean_teacher_logits, "P B C"),
  )
  check_peers("pcl", "peer_logits", peer_logits, at_least=2)
  labels = as_labels("pcl", labels, peer_logits)
  target = ensemble_logits
  if stop_gradient:
    target = jax.lax.stop_gradient(target)
  from_ensemble = kl(peer_logits, target, temperature)
  mean_teachers = jax.lax.stop_gradient(mean_teacher_logits)
  from_mean_teachers = kl(
    peer_logits[:, None], mean_teachers[None], temperature
  )
  return {
    "peer_ce": nll(peer_logits, labels),
    "ensemble_ce": nll(ensemble_logits, labels),
    "ensemble_kd": weighted(kd_weight, from_ensemble),
    "mean_teacher_kd": weighted(
      kd_weight, mean_over_others(from_mean_teachers)
    ),
  }
