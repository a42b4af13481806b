"""Cross-entropy and the divergences between softened predictions."""

import math

import jax
import jax.numpy as jnp

from okd_jax.losses._inputs import (
  Array,
  as_floats,
  check_not_negative,
  check_temperature,
  Scalar,
)
from okd_jax.losses._labels import as_suffix_labels, is_soft, nan_unless


def cross_entropy(logits: Array, labels: Array) -> Array:
  r"""Cross-entropy of class indices or probabilities, in nats.

  Computes :math:`-\sum_c y_c \log \mathrm{softmax}(z)_c`, which for a class
  index is :math:`-\log \mathrm{softmax}(z)_y`: temperature 1, no smoothing.

  Args:
    logits: unnormalised log-probabilities, float [..., C]; -inf masks a class.
    labels: class indices in [0, C), integer. Its shape is that of the
      predictions, [...], or a suffix of it: labels [B] serve all peers of
      logits [P, B, C]. Or probabilities, float [..., C] in the same way.

  Returns:
    One non-negative value a prediction, [...], float32 or float64; inf where
    the label is a masked class.

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.
    ValueError: for an index known to be out of range. One that only the
      running program knows gives nan, as value and as gradient.

  >>> logits = jnp.array([[[0.0, 0.0]], [[0.0, 1.0]]])
  >>> cross_entropy(logits, jnp.array([1])).round(2)
  Array([[0.69],
         [0.31]], dtype=float32)
  """
  (logits,) = as_floats("cross_entropy", logits=(logits, "... C"))
  return nll(logits, as_suffix_labels("cross_entropy", labels, logits))


def nll(logits: Array, labels: Array) -> Array:
  """`cross_entropy` of inputs that are already checked."""
  log_probs = jax.nn.log_softmax(logits)
  if is_soft(labels):
    probs = labels.astype(logits.dtype)
    absent = (log_probs == -jnp.inf) & (probs == 0)
    return -jnp.sum(probs * jnp.where(absent, 0, log_probs), axis=-1)
  labels = jnp.broadcast_to(labels, logits.shape[:-1])
  index = jnp.maximum(labels, 0)[..., None]
  found = jnp.take_along_axis(log_probs, index, axis=-1)[..., 0]
  return -found * nan_unless(labels >= 0, logits.dtype)


def softened_log_softmax(logits: Array, temperature: Scalar) -> Array:
  """Returns log softmax(logits / temperature) of logits [..., C]."""
  # The maximum goes first: in float32, logits near 1e4 divided by a small
  # temperature would lose the differences between them.
  top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
  temperature = jnp.asarray(temperature, logits.dtype)[..., None]
  masked = logits == -jnp.inf
  # The temperature's gradient is kept from -inf.
  centred = jnp.where(masked, 0, logits - top) / temperature
  return jax.nn.log_softmax(jnp.where(masked, -jnp.inf, centred))


def divergence(target_log_probs: Array, log_probs: Array) -> Array:
  r"""KL(target || prediction) of log-probabilities [..., C].

  Computed as :math:`\sum_c p_c (g_c + e^{-g_c} - 1)` with g = log p - log q.
  This equals the textbook sum because p and q sum to one. No summand is
  negative, and errors of g enter squared, so that the small divergence of close
  predictions stays accurate.

  A log-probability of -inf is a masked class. A class that the target masks
  adds q, the limit of the summand; a class that only the prediction masks makes
  the divergence infinite, with a gradient from the other classes.
  """
  absent = target_log_probs == -jnp.inf
  barred = ~absent & (log_probs == -jnp.inf)
  target_probs = jnp.exp(target_log_probs)
  gap = gap_of(target_log_probs, log_probs)
  near = jnp.abs(gap) < 1
  safe_gap = jnp.where(near, gap, 0)
  summands = jnp.where(
    near,
    target_probs * (safe_gap + jnp.expm1(-safe_gap)),
    # expm1 would overflow where the prediction is far above the target.
    target_probs * (gap - 1) + jnp.exp(log_probs),
  )
  summands = jnp.where(absent, jnp.exp(log_probs), summands)
  return jnp.sum(jnp.where(barred, jnp.inf, summands), axis=-1)


def gap_of(target_log_probs: Array, log_probs: Array) -> Array:
  """The difference, [..., C]; 0 where either is -inf."""
  masked = (target_log_probs == -jnp.inf) | (log_probs == -jnp.inf)
  return jnp.where(masked, 0, target_log_probs) - jnp.where(
    masked, 0, log_probs
  )


@jax.custom_jvp
def _zero_where(same: Array, value: Array) -> Array:
  """Sets values known to be zero to 0; keeps derivatives of every order."""
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
  softmax of the student's. The factor :math:`\tau^2` keeps gradients of the
  size they have at :math:`\tau = 1`. Gradients flow into both arguments; to
  stop them, use `stop_gradient` in the call. Identical logits give exactly zero
  if `eps` is zero.

  A logit of -inf masks a class. Where the teacher masks it, its target
  probability is 0 and gets no `eps`; if both mask it, the value is the
  divergence of the other classes. Where only the student masks it, the value
  is inf. Gradients stay finite.

  In float32 the relative error grows with the temperature, to about 1e-4 at
  1,000: predictions are then nearly equal.

  Args:
    student_logits: unnormalised log-probabilities, float [..., C].
    teacher_logits: the same for the teacher; leading axes broadcast, C
      matches.
    temperature: positive scalar, or an array that broadcasts over [...].
    eps: static constant that is added to every target probability that is not
      masked, without normalising again, as in the published code.

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
  check_not_negative("softened_kl", "eps", eps)
  student_logits, teacher_logits = _checked(
    "softened_kl", student_logits, teacher_logits, temperature
  )
  return kl(student_logits, teacher_logits, temperature, eps)


def kl(
  student_logits: Array,
  teacher_logits: Array,
  temperature: Scalar,
  eps: float = 0.0,
) -> Array:
  """`softened_kl` of inputs that are already checked."""
  log_probs = softened_log_softmax(student_logits, temperature)
  target_log_probs = softened_log_softmax(teacher_logits, temperature)
  # Rows of -inf alone are equal and have no divergence.
  same = jnp.all(
    (student_logits == teacher_logits) & ~jnp.isnan(log_probs), axis=-1
  )
  value = _zero_where(same, divergence(target_log_probs, log_probs))
  if eps:
    value += _constant_in_target(target_log_probs, log_probs, eps)
  return jnp.square(jnp.asarray(temperature, value.dtype)) * value


def _constant_in_target(
  target_log_probs: Array, log_probs: Array, eps: float
) -> Array:
  """What `eps` adds to the divergence, free of cancellation."""
  masked = (target_log_probs == -jnp.inf) | (log_probs == -jnp.inf)
  known = jnp.where(masked, 0, target_log_probs)
  # log(p + eps) - log p; p + eps itself would round eps away in float32.
  rise = jax.nn.softplus(math.log(eps) - known)
  raised_gap = gap_of(target_log_probs, log_probs) + rise
  summands = jnp.exp(known) * rise + eps * raised_gap
  return jnp.sum(jnp.where(masked, 0, summands), axis=-1)


def softened_cross_entropy(
  student_logits: Array, teacher_logits: Array, *, temperature: Scalar
) -> Array:
  r"""Cross-entropy of the softened student under the softened teacher.

  Computes :math:`-\tau^2 \sum_c p_c \log q_c` with p and q as in
  `softened_kl`. With a fixed teacher the gradients are those of
  `softened_kl`; with gradients into the teacher they differ. Masked classes
  are as in `softened_kl`.

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
  student_logits, teacher_logits = _checked(
    "softened_cross_entropy", student_logits, teacher_logits, temperature
  )
  log_probs = softened_log_softmax(student_logits, temperature)
  target_log_probs = softened_log_softmax(teacher_logits, temperature)
  absent = target_log_probs == -jnp.inf
  barred = ~absent & (log_probs == -jnp.inf)
  summands = jnp.exp(target_log_probs) * jnp.where(
    absent | barred, 0, log_probs
  )
  entropy = -jnp.sum(jnp.where(barred, -jnp.inf, summands), axis=-1)
  return jnp.square(jnp.asarray(temperature, entropy.dtype)) * entropy


def _checked(
  function: str, student: Array, teacher: Array, temperature: Scalar
) -> tuple[Array, Array]:
  student, teacher = as_floats(
    function,
    student_logits=(student, "... C"),
    teacher_logits=(teacher, "... C"),
  )
  predictions = (student.shape[:-1], teacher.shape[:-1])
  check_temperature(function, temperature, predictions=predictions)
  return student, teacher
