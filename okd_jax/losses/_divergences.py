"""Cross-entropy and the divergences between softened predictions."""

import math

import chex
import jax
import jax.numpy as jnp

from okd_jax.losses._inputs import (
  Array,
  as_float,
  check_temperature,
  is_soft,
  Scalar,
)


def cross_entropy(logits: Array, labels: Array) -> Array:
  r"""Cross-entropy of class indices or probabilities, in nats.

  Computes :math:`-\log \mathrm{softmax}(z)_y`, or
  :math:`-\sum_c y_c \log \mathrm{softmax}(z)_c` of soft labels: temperature 1,
  no smoothing.

  Args:
    logits: unnormalised log-probabilities, float [..., C].
    labels: class indices in [0, C), integer. Its shape is that of the
      predictions, [...], or a suffix of it: labels [B] serve all peers of
      logits [P, B, C]. Or probabilities, float [..., C] in the same way.

  Returns:
    One non-negative value a prediction, [...], float32 or float64.

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.

  >>> logits = jnp.array([[[0.0, 0.0]], [[0.0, 1.0]]])
  >>> cross_entropy(logits, jnp.array([1])).round(2)
  Array([[0.69],
         [0.31]], dtype=float32)
  """
  logits = as_float(logits)
  labels = jnp.asarray(labels)
  log_probs = jax.nn.log_softmax(logits)
  if is_soft(labels):
    chex.assert_equal_shape_suffix([logits, labels], labels.ndim)
    return -jnp.sum(labels.astype(logits.dtype) * log_probs, axis=-1)
  chex.assert_type(labels, int)
  predictions = logits.shape[:-1]
  chex.assert_shape(labels, predictions[len(predictions) - labels.ndim :])
  labels = jnp.broadcast_to(labels, predictions)
  return -jnp.take_along_axis(log_probs, labels[..., None], axis=-1)[..., 0]


def softened_log_softmax(logits: Array, temperature: Scalar) -> Array:
  """Returns log softmax(logits / temperature) of logits [..., C]."""
  # The maximum goes first: in float32, logits near 1e4 divided by a small
  # temperature would lose the differences between them.
  top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
  temperature = jnp.asarray(temperature, logits.dtype)[..., None]
  return jax.nn.log_softmax((logits - top) / temperature)


def divergence(target_log_probs: Array, log_probs: Array) -> Array:
  r"""KL(target || prediction) of log-probabilities [..., C].

  As :math:`\sum_c p_c (g_c + e^{-g_c} - 1)` with g = log p - log q, which is
  the textbook sum because both sum to one. No summand is negative, and errors
  of g enter squared, so that close predictions keep their small divergence.
  """
  target_probs = jnp.exp(target_log_probs)
  gap = target_log_probs - log_probs
  near = jnp.abs(gap) < 1
  safe_gap = jnp.where(near, gap, 0)
  summands = jnp.where(
    near,
    target_probs * (safe_gap + jnp.expm1(-safe_gap)),
    # expm1 would overflow where the prediction is far above the target.
    target_probs * (gap - 1) + jnp.exp(log_probs),
  )
  return jnp.sum(summands, axis=-1)


@jax.custom_jvp
def _zero_where(same: Array, value: Array) -> Array:
  """Zeroes values known to be zero and keeps derivatives of every order."""
  return jnp.where(same, 0, value)


@_zero_where.defjvp
def _zero_where_jvp(primals, tangents):
  return _zero_where(*primals), tangents[1]


def softened_kl(
  student_logits: Array,
  teacher_logits: Array,
  *,
  temperature: Scalar,
  eps: float = 0.0,
) -> Array:
  r"""KL divergence from softened teacher to softened student, in nats.

  Computes :math:`\tau^2 \sum_c p_c (\log p_c - \log q_c)`, where p is the
  softmax of the teacher's logits over :math:`\tau`, plus `eps`, and q is the
  softmax of the student's. The factor keeps gradients of the size they have
  at :math:`\tau = 1`. Gradients flow into both arguments: stop them at the
  call. Identical logits give exactly zero if `eps` is zero.

  Args:
    student_logits: unnormalised log-probabilities, float [..., C].
    teacher_logits: the same for the teacher; leading axes broadcast, C
      matches.
    temperature: positive scalar, or an array that broadcasts over [...].
    eps: static constant that the published code adds to every probability of
      the target, without normalising again.

  Returns:
    One value a prediction, [...], float32 or float64; not negative if `eps`
    is zero.

  Raises:
    AssertionError: if the class axes differ or a dtype is not floating.
    ValueError: if a static temperature is not positive, or `eps` is negative.

  References:
    Hinton et al., `Distilling the Knowledge in a Neural Network
    <https://arxiv.org/abs/1503.02531>`_, 2015, section 2; `eps` as in the
    code of `OKDDip <https://arxiv.org/abs/1912.00350>`_.

  >>> x = jnp.array([[2.0, 0.0, -1.0]])
  >>> softened_kl(x, x, temperature=4.0).tolist()
  [0.0]
  >>> print(f"{softened_kl(x, -x, temperature=4.0)[0]:.2f}")
  2.92
  """
  check_temperature(temperature)
  if not eps >= 0:
    raise ValueError(
      f"eps={eps} must not be negative; 0 gives the plain divergence."
    )
  student_logits = as_float(student_logits)
  teacher_logits = as_float(teacher_logits)
  chex.assert_equal_shape_suffix([student_logits, teacher_logits], 1)
  log_probs = softened_log_softmax(student_logits, temperature)
  target_log_probs = softened_log_softmax(teacher_logits, temperature)
  same = jnp.all(student_logits == teacher_logits, axis=-1)
  kl = _zero_where(same, divergence(target_log_probs, log_probs))
  if eps:
    kl += _constant_in_target(target_log_probs, log_probs, eps)
  return jnp.square(jnp.asarray(temperature, kl.dtype)) * kl


def _constant_in_target(
  target_log_probs: Array, log_probs: Array, eps: float
) -> Array:
  """What `eps` adds to the divergence, free of cancellation."""
  # log(p + eps) - log p; p + eps itself would round eps away in float32.
  rise = jax.nn.softplus(math.log(eps) - target_log_probs)
  raised_gap = target_log_probs - log_probs + rise
  return jnp.sum(jnp.exp(target_log_probs) * rise + eps * raised_gap, axis=-1)


def softened_cross_entropy(
  student_logits: Array, teacher_logits: Array, *, temperature: Scalar
) -> Array:
  r"""Cross-entropy of the softened student under the softened teacher.

  Computes :math:`-\tau^2 \sum_c p_c \log q_c` with p and q as in
  `softened_kl`. With a fixed teacher the gradients are those of
  `softened_kl`; with gradients into the teacher they differ.

  Args:
    student_logits: unnormalised log-probabilities, float [..., C].
    teacher_logits: the same for the teacher; leading axes broadcast, C
      matches.
    temperature: positive scalar, or an array that broadcasts over [...].

  Returns:
    One non-negative value a prediction, [...], float32 or float64.

  Raises:
    AssertionError: if the class axes differ or a dtype is not floating.
    ValueError: if a static temperature is not positive.

  References:
    The soft-target alternative in the code of `OKDDip
    <https://arxiv.org/abs/1912.00350>`_.

  >>> x = jnp.zeros((1, 2))
  >>> softened_cross_entropy(x, x, temperature=1.0).round(2)
  Array([0.69], dtype=float32)
  """
  check_temperature(temperature)
  student_logits = as_float(student_logits)
  teacher_logits = as_float(teacher_logits)
  chex.assert_equal_shape_suffix([student_logits, teacher_logits], 1)
  log_probs = softened_log_softmax(student_logits, temperature)
  target_log_probs = softened_log_softmax(teacher_logits, temperature)
  entropy = -jnp.sum(jnp.exp(target_log_probs) * log_probs, axis=-1)
  return jnp.square(jnp.asarray(temperature, entropy.dtype)) * entropy
