"""Objectives of peers that learn from each other without extra modules."""

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
from okd_jax.losses._peers import mean_of_others, mean_over_others


def dml(
  logits: Array,
  labels: Array,
  *,
  temperature: Scalar = 1.0,
  kd_weight: Scalar = 1.0,
  eps: float = 1e-7,
  stop_gradient: bool = True,
) -> dict[str, Array]:
  r"""Loss terms of deep mutual learning, pairwise.

  Peer j learns from each of the others: the mean over :math:`k \ne j` of
  :math:`\tau^2 \mathrm{KL}(z_k \| z_j)`. The loss is the sum over terms and
  peers of the mean over examples.

  Args:
    logits: float [P, B, C].
    labels: class indices, integer [B], or probabilities, float [B, C].
    temperature: positive scalar; 1 in the paper.
    kd_weight: scalar weight of the distillation term.
    eps: added to the softened targets, see `softened_kl`.
    stop_gradient: treats every peer's predictions as constants where they are
      targets, as in the paper.

  Returns:
    Weighted terms "peer_ce" and "peer_kd", [P, B] each.

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.
    ValueError: for fewer than two peers or an invalid temperature.

  References:
    Zhang et al., `Deep Mutual Learning <https://arxiv.org/abs/1706.00384>`_,
    CVPR 2018.

  >>> import jax.numpy as jnp
  >>> dml(jnp.zeros((3, 2, 5)), jnp.array([0, 1]))["peer_kd"].shape
  (3, 2)
  """
  logits, labels = _checked("dml", logits, labels, temperature, kd_weight, eps)
  targets = jax.lax.stop_gradient(logits) if stop_gradient else logits
  pairs = kl(logits[:, None], targets[None], temperature, eps)
  return {
    "peer_ce": nll(logits, labels),
    "peer_kd": weighted(kd_weight, mean_over_others(pairs)),
  }


def dml_ensemble(
  logits: Array,
  labels: Array,
  *,
  temperature: Scalar = 3.0,
  kd_weight: Scalar = 1.0,
  eps: float = 1e-7,
  stop_gradient: bool = False,
) -> dict[str, Array]:
  r"""Loss terms of deep mutual learning towards the ensemble of the others.

  Peer j learns from the mean of the others' logits, the default of the code
  published with OKDDip. The loss is the sum over terms and peers of the mean
  over examples.

  Args:
    logits: float [P, B, C].
    labels: class indices, integer [B], or probabilities, float [B, C].
    temperature: positive scalar.
    kd_weight: scalar weight of the distillation term.
    eps: added to the softened targets, see `softened_kl`.
    stop_gradient: makes the targets constant.

  Returns:
    Weighted terms "peer_ce" and "peer_kd", [P, B] each.

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.
    ValueError: for fewer than two peers or an invalid temperature.

  References:
    Zhang et al., `Deep Mutual Learning <https://arxiv.org/abs/1706.00384>`_,
    CVPR 2018; ensemble form as in the code of `OKDDip
    <https://arxiv.org/abs/1912.00350>`_.

  >>> import jax.numpy as jnp
  >>> dml_ensemble(jnp.zeros((3, 2, 5)), jnp.array([0, 1]))["peer_kd"].shape
  (3, 2)
  """
  return _towards_the_others(
    "dml_ensemble", logits, labels, temperature, kd_weight, eps, stop_gradient
  )


def cl_ilr(
  logits: Array,
  labels: Array,
  *,
  temperature: Scalar = 3.0,
  ce_weight: Scalar = 1.0,
  kd_weight: Scalar = 1.0,
  eps: float = 1e-7,
  stop_gradient: bool = False,
) -> dict[str, Array]:
  r"""Loss terms of collaborative learning with shared low-level layers.

  Branch i learns from :math:`\frac{1}{P - 1} \sum_{j \ne i} z_j`. The loss is
  the sum over terms and peers of the mean over examples. It does not rescale
  the gradient at the trunk: the caller applies `scale_gradient`.

  Args:
    logits: logits of the branches, float [P, B, C].
    labels: class indices, integer [B], or probabilities, float [B, C].
    temperature: positive scalar.
    ce_weight: scalar weight of the cross-entropy. A coefficient b that mixes
      hard and soft losses, as in the paper, is `ce_weight=b, kd_weight=1 - b`.
    kd_weight: scalar weight of the distillation term, ramp-up included.
    eps: added to the softened targets, see `softened_kl`.
    stop_gradient: makes the targets constant.

  Returns:
    Weighted terms "peer_ce" and "peer_kd", [P, B] each.

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.
    ValueError: for fewer than two peers or an invalid temperature.

  References:
    Song & Chai, `Collaborative Learning for Deep Neural Networks
    <https://arxiv.org/abs/1805.11761>`_, NeurIPS 2018; by default without its
    mixing coefficient, as in the code of `OKDDip
    <https://arxiv.org/abs/1912.00350>`_.

  >>> import jax.numpy as jnp
  >>> cl_ilr(jnp.zeros((3, 2, 5)), jnp.array([0, 1]))["peer_kd"].shape
  (3, 2)
  """
  check_weights("cl_ilr", ce_weight=ce_weight)
  terms = _towards_the_others(
    "cl_ilr", logits, labels, temperature, kd_weight, eps, stop_gradient
  )
  return terms | {"peer_ce": weighted(ce_weight, terms["peer_ce"])}


def _towards_the_others(
  function, logits, labels, temperature, kd_weight, eps, stop_gradient
):
  """The terms, with the mean of the others' logits as every peer's target."""
  logits, labels = _checked(
    function, logits, labels, temperature, kd_weight, eps
  )
  targets = mean_of_others(logits)
  if stop_gradient:
    targets = jax.lax.stop_gradient(targets)
  from_others = kl(logits, targets, temperature, eps)
  return {
    "peer_ce": nll(logits, labels),
    "peer_kd": weighted(kd_weight, from_others),
  }


def _checked(
  function, logits, labels, temperature, kd_weight, eps
) -> tuple[Array, Array]:
  """Logits and labels, after a check of everything."""
  check_temperature(function, temperature)
  check_not_negative(function, "eps", eps)
  check_weights(function, kd_weight=kd_weight)
  (logits,) = as_floats(function, logits=(logits, "P B C"))
  check_peers(function, "logits", logits, at_least=2)
  return logits, as_labels(function, labels, logits)
