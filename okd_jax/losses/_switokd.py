"""The objective of switchable online distillation."""

import jax
import jax.numpy as jnp

from okd_jax.losses._divergences import kl, nll
from okd_jax.losses._inputs import (
  Array,
  as_floats,
  as_labels,
  as_probabilities,
)


def switokd_gap(
  teacher_logits: Array, student_logits: Array, labels: Array
) -> dict[str, Array]:
  r"""How far the teacher is ahead of the student, and how far it may be.

  With the mean over the batch of sums over classes of absolute differences:
  :math:`d_t = |p_t - y|`, :math:`d_s = |p_s - y|`, the gap
  :math:`|p_s - p_t|`, and the threshold
  :math:`d_s - e^{-d_t / (d_t + d_s)} d_t`.

  Args:
    teacher_logits: float [B, C].
    student_logits: float [B, C].
    labels: class indices, integer [B], or probabilities, float [B, C].

  Returns:
    Scalars "d_t", "d_s", "gap", "threshold" without gradient.

  Raises:
    ValueError: if the shapes do not match or a dtype is wrong.

  References:
    Qian et al., `Switchable Online Knowledge Distillation
    <https://arxiv.org/abs/2209.04996>`_, ECCV 2022, as in the published code.

  >>> z = jnp.zeros((2, 4))
  >>> gap = jax.jit(switokd_gap)(z, z, jnp.array([0, 1]))
  >>> {name: round(float(value), 2) for name, value in sorted(gap.items())}
  {'d_s': 1.5, 'd_t': 1.5, 'gap': 0.0, 'threshold': 0.59}
  """
  return _gap(*_checked("switokd_gap", teacher_logits, student_logits, labels))


def _gap(teacher_logits, student_logits, labels):
  teacher = jax.nn.softmax(jax.lax.stop_gradient(teacher_logits))
  student = jax.nn.softmax(jax.lax.stop_gradient(student_logits))
  target = jax.lax.stop_gradient(
    as_probabilities(labels, teacher.shape[-1], teacher.dtype)
  )

  def distance(p, q):
    return jnp.mean(jnp.sum(jnp.abs(p - q), axis=-1))

  d_t, d_s = distance(teacher, target), distance(student, target)
  total = d_t + d_s
  # Both are right and sure: no gap either, whatever the ratio is.
  ratio = jnp.where(total > 0, d_t / jnp.where(total > 0, total, 1), 0)
  return {
    "d_t": d_t,
    "d_s": d_s,
    "gap": distance(student, teacher),
    "threshold": d_s - jnp.exp(-ratio) * d_t,
  }


def switokd(
  teacher_logits: Array, student_logits: Array, labels: Array
) -> dict[str, Array]:
  r"""Loss terms of SwitOKD: the teacher pauses when it is too far ahead.

  Student and teacher learn from each other, :math:`\mathrm{KL}(p_t \| p_s)` and
  :math:`\mathrm{KL}(p_s \| p_t)` at temperature 1, the first argument constant.
  In expert mode the teacher's terms are zero: the gap of `switokd_gap` is above
  the threshold, and the teacher is the better one on this batch. The loss is
  the sum over terms of the mean over examples.

  Args:
    teacher_logits: float [B, C].
    student_logits: float [B, C].
    labels: class indices, integer [B], or probabilities, float [B, C].

  Returns:
    Weighted terms "student_ce", "student_kd", "teacher_ce", "teacher_kd", [B]
    each; and beside them "expert_mode", a bool scalar, which is no term: a
    paused teacher gets no optimiser step either, so take it out first.

  Raises:
    ValueError: if the shapes do not match or a dtype is wrong.

  References:
    Qian et al., `Switchable Online Knowledge Distillation
    <https://arxiv.org/abs/2209.04996>`_, ECCV 2022, as in the published code.

  >>> z = jnp.zeros((2, 4))
  >>> terms = jax.jit(switokd)(z, z, jnp.array([0, 1]))
  >>> bool(terms.pop("expert_mode")), sorted(terms)
  (False, ['student_ce', 'student_kd', 'teacher_ce', 'teacher_kd'])
  """
  teacher_logits, student_logits, labels = _checked(
    "switokd", teacher_logits, student_logits, labels
  )
  gap = _gap(teacher_logits, student_logits, labels)
  expert_mode = (gap["gap"] > gap["threshold"]) & (gap["d_t"] < gap["d_s"])

  def towards(logits, target):
    return kl(logits, jax.lax.stop_gradient(target), 1.0)

  def unless_paused(term):
    return jnp.where(expert_mode, 0, term)

  return {
    "student_ce": nll(student_logits, labels),
    "student_kd": towards(student_logits, teacher_logits),
    "teacher_ce": unless_paused(nll(teacher_logits, labels)),
    "teacher_kd": unless_paused(towards(teacher_logits, student_logits)),
    "expert_mode": expert_mode,
  }


def _checked(function, teacher_logits, student_logits, labels):
  teacher_logits, student_logits = as_floats(
    function,
    teacher_logits=(teacher_logits, "B C"),
    student_logits=(student_logits, "B C"),
  )
  return (
    teacher_logits,
    student_logits,
    as_labels(function, labels, student_logits),
  )
