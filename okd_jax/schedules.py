"""Weights and learning rates as functions of epoch or step.

Every function takes a number and returns one, or takes an array, traced or
not, and returns one.
"""

from collections.abc import Sequence
import math
import numbers

import jax
import jax.numpy as jnp

Array = jax.Array


def rampup(epoch: float | Array, length: float) -> float | Array:
  r"""Weight of distillation terms: a Gaussian rise from exp(-5) to 1.

  Computes :math:`\exp(-5 (1 - \min(e, N) / N)^2)`, and 1 if N is 0.

  Args:
    epoch: 0-based, a number or an array; fractions ramp up within an epoch.
    length: N, number of epochs until the weight is 1, at least 0.

  Returns:
    A value in (0, 1], shaped like `epoch`.

  Raises:
    ValueError: if `length` is negative.

  References:
    Laine & Aila, `Temporal Ensembling for Semi-Supervised Learning
    <https://arxiv.org/abs/1610.02242>`_, ICLR 2017; used by OKDDip, ONE, PCL
    and FFL with a length of 80 of 300 epochs.

  >>> rampup(0, 80), rampup(80, 80), rampup(0, 0)
  (0.006737946999085467, 1.0, 1.0)
  """
  if not length >= 0:
    raise ValueError(
      f"length={length} must not be negative; 0 switches the ramp-up off."
    )
  if isinstance(epoch, numbers.Real):
    done = min(epoch, length) / length if length else 1.0
    return math.exp(-5 * (1 - done) ** 2)
  epoch = _as_float(epoch)
  if not length:
    return jnp.ones_like(epoch)
  done = jnp.minimum(epoch, length) / length
  return jnp.exp(-5 * jnp.square(1 - done))


def multistep(
  epoch: float | Array,
  *,
  base: float,
  drops: Sequence[float],
  factor: float = 0.1,
) -> float | Array:
  """Learning rate that is multiplied by a factor at given epochs.

  Args:
    epoch: 0-based, a number or an array.
    base: the rate before the first drop.
    drops: epoch indices; an epoch of that index has the lower rate already.
    factor: what every drop multiplies the rate by.

  Returns:
    base * factor ** (number of drops <= epoch), shaped like `epoch`.

  >>> [multistep(e, base=1.0, drops=(150, 225), factor=0.5)
  ...  for e in (149, 150, 225)]
  [1.0, 0.5, 0.25]
  """
  if isinstance(epoch, numbers.Real):
    return base * factor ** sum(epoch >= drop for drop in drops)
  rate = jnp.full_like(_as_float(epoch), base)
  for drop in drops:
    rate *= jnp.where(jnp.asarray(epoch) >= drop, factor, 1.0)
  return rate


def ema_decay(step: int | Array, decay: float) -> float | Array:
  """Weight of the old value in an average of parameters over steps.

  Computes min(1 - 1 / g, decay): the plain mean of all values at first, so
  that the first step copies, then an exponential average.

  Args:
    step: g, counted from 1, a number or an array.
    decay: limit in [0, 1].

  Returns:
    A value in [0, decay], shaped like `step`.

  Raises:
    ValueError: if `step` is a number below 1.

  References:
    Wu & Gong, `Peer Collaborative Learning for Online Knowledge Distillation
    <https://arxiv.org/abs/2006.04147>`_, AAAI 2021: the temporal mean model.

  >>> [ema_decay(step, 0.9) for step in (1, 2, 1000)]
  [0.0, 0.5, 0.9]
  """
  if isinstance(step, numbers.Real):
    if step < 1:
      raise ValueError(f"step={step} must be at least 1: the first update.")
    return min(1 - 1 / step, decay)
  return jnp.minimum(1 - 1 / _as_float(step), decay)


def _as_float(x: float | Array) -> Array:
  """Casts integers to the default float and 16-bit floats to float32."""
  x = jnp.asarray(x)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return x.astype(jnp.result_type(float))
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))
