"""Distillation from a teacher that is trained already and frozen."""

import jax

from okd_jax.losses._divergences import kl, nll
from okd_jax.losses._inputs import (
  Array,
  as_floats,
  check_not_negative,
  check_temperature,
  check_weights,
  describe,
  refuse,
  Scalar,
  weighted,
)
from okd_jax.losses._labels import as_labels


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
    labels: class indices, integer [B], or probabilities, float [B, C].
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
  check_temperature("kd", temperature)
  check_not_negative("kd", "eps", eps)
  check_weights("kd", kd_weight=kd_weight)
  student_logits, teacher_logits = as_floats(
    "kd",
    student_logits=(student_logits, "... B C"),
    teacher_logits=(teacher_logits, "B C"),
  )
  if student_logits.ndim > 3:
    expected = "float [B, C] or [P, B, C]"
    refuse("kd", "student_logits", expected, describe(student_logits))
  labels = as_labels("kd", labels, student_logits)
  target = jax.lax.stop_gradient(teacher_logits)
  from_teacher = kl(student_logits, target, temperature, eps)
  return {
    "peer_ce": nll(student_logits, labels),
    "peer_kd": weighted(kd_weight, from_teacher),
  }
