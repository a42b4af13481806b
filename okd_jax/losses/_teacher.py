"""Distillation from a teacher that is not trained."""

import chex
import jax

from okd_jax.losses._divergences import cross_entropy, softened_kl
from okd_jax.losses._inputs import Array, Scalar, weighted


def kd(
  student_logits: Array,
  teacher_logits: Array,
  labels: Array,
  *,
  temperature: Scalar = 3.0,
  kd_weight: Scalar = 1.0,
  eps: float = 1e-7,
) -> dict[str, Array]:
  """Loss terms of two-stage distillation; the teacher gets no gradient.

  The loss is the sum over terms and peers of the mean over examples.

  Args:
    student_logits: float [B, C], or [P, B, C] for peers with one teacher.
    teacher_logits: float [B, C].
    labels: class indices, integer [B].
    temperature: positive scalar.
    kd_weight: scalar weight of the distillation term.
    eps: added to the softened target, see `softened_kl`.

  Returns:
    Weighted terms "peer_ce" and "peer_kd", [B] or [P, B].

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.
    ValueError: for an invalid temperature.

  References:
    Hinton et al., `Distilling the Knowledge in a Neural Network
    <https://arxiv.org/abs/1503.02531>`_, 2015, section 2; weights as in the
    code of `OKDDip <https://arxiv.org/abs/1912.00350>`_.

  >>> import jax.numpy as jnp
  >>> student, teacher = jnp.zeros((3, 2, 5)), jnp.ones((2, 5))
  >>> kd(student, teacher, jnp.array([0, 1]))["peer_kd"].shape
  (3, 2)
  """
  chex.assert_rank(student_logits, {2, 3})
  chex.assert_shape(teacher_logits, student_logits.shape[-2:])
  chex.assert_shape(labels, teacher_logits.shape[:1])
  target = jax.lax.stop_gradient(teacher_logits)
  kl = softened_kl(student_logits, target, temperature=temperature, eps=eps)
  return {
    "peer_ce": cross_entropy(student_logits, labels),
    "peer_kd": weighted(kd_weight, kl),
  }
