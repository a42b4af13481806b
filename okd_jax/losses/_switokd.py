"""The objectives of switchable online distillation."""

import operator

import jax
import jax.numpy as jnp

from okd_jax.losses._divergences import kl, nll
from okd_jax.losses._inputs import Array, as_floats, describe, refuse
from okd_jax.losses._labels import as_labels, as_probabilities


def switokd_gap(
  teacher_logits: Array, student_logits: Array, labels: Array
) -> dict[str, Array]:
  r"""How far the teacher is ahead of the student, and how far it may be.

  With :math:`|\cdot|` the sum over classes of absolute differences, averaged
  over the batch: :math:`d_t = |p_t - y|`, :math:`d_s = |p_s - y|`, the gap
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
  # Both are right and confident: there is no gap either, whatever the ratio is.
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
  In expert mode the teacher's terms are zero. It is in expert mode if the gap
  of `switokd_gap` is above the threshold and the teacher is better than the
  student on this batch. The loss is the sum over terms of the mean over
  examples.

  Args:
    teacher_logits: float [B, C].
    student_logits: float [B, C].
    labels: class indices, integer [B], or probabilities, float [B, C].

  Returns:
    Weighted terms "student_ce", "student_kd", "teacher_ce", "teacher_kd", [B]
    each, and "expert_mode", a bool scalar. That is no term, so remove it before
    summing; in expert mode the teacher must get no optimiser step either.

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
  expert_mode = _is_expert(teacher_logits, student_logits, labels)

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


def switokd_group(
  logits: Array, labels: Array, *, num_teachers: int = 1
) -> dict[str, Array]:
  r"""Loss terms of SwitOKD among any number of networks, teachers first.

  Every network learns from all others, :math:`\sum_{j \ne i} \mathrm{KL}(p_j \|
  p_i)` at temperature 1, the first argument constant. Every pair of a teacher
  and a student has its own switch, that of `switokd`: in expert mode the
  teacher does not learn from this student. A teacher whose pairs are all in
  expert mode learns nothing: its terms are zero, and the caller must not update
  it. The loss is the sum over terms and networks of the mean over examples.

  Args:
    logits: logits of the teachers, then of the students, float [P, B, C].
    labels: class indices, integer [B], or probabilities, float [B, C].
    num_teachers: number T of teachers, at least one and below P.

  Returns:
    Weighted terms "peer_ce", "peer_kd", [P, B] each, and "expert_mode", bool
    [T, P - T], which is no term, so remove it before summing.

  Raises:
    ValueError: if the shapes do not match or a dtype is wrong, and without a
      teacher or a student.

  References:
    Qian et al., `Switchable Online Knowledge Distillation
    <https://arxiv.org/abs/2209.04996>`_, ECCV 2022: two networks, two teachers
    with a student, and a teacher with two students; each pair with a threshold
    of its own, as in the paper.

  >>> terms = switokd_group(jnp.zeros((3, 2, 4)), jnp.array([0, 1]))
  >>> terms["expert_mode"].shape, terms["peer_kd"].shape
  ((1, 2), (3, 2))
  """
  (logits,) = as_floats("switokd_group", logits=(logits, "P B C"))
  labels = as_labels("switokd_group", labels, logits)
  num_peers = logits.shape[0]
  num_teachers = _as_count(num_teachers, num_peers)
  teachers, students = logits[:num_teachers], logits[num_teachers:]
  one_teacher = jax.vmap(_is_expert, (None, 0, None))
  expert_mode = jax.vmap(one_teacher, (0, None, None))(
    teachers, students, labels
  )
  learns = jnp.any(~expert_mode, axis=1)
  by_labels = jnp.concatenate([learns, jnp.ones(len(students), bool)])
  others = ~jnp.eye(num_peers, dtype=bool) & by_labels[:, None]
  of_students = others[:num_teachers, num_teachers:] & ~expert_mode
  others = others.at[:num_teachers, num_teachers:].set(of_students)
  pairs = kl(logits[:, None], jax.lax.stop_gradient(logits)[None], 1.0)
  return {
    "peer_ce": jnp.where(by_labels[:, None], nll(logits, labels), 0),
    "peer_kd": jnp.sum(jnp.where(others[..., None], pairs, 0), axis=1),
    "expert_mode": expert_mode,
  }


def _as_count(num_teachers, num_peers) -> int:
  try:
    count = operator.index(num_teachers)
  except TypeError:
    count = 0
  if isinstance(num_teachers, bool) or not 0 < count < num_peers:
    expected = f"at least 1 and below the {num_peers} networks of the logits"
    refuse("switokd_group", "num_teachers", expected, describe(num_teachers))
  return count


def _is_expert(teacher_logits, student_logits, labels):
  gap = _gap(teacher_logits, student_logits, labels)
  return (gap["gap"] > gap["threshold"]) & (gap["d_t"] < gap["d_s"])


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
