"""What every loss does with its inputs before the mathematics starts."""

import math
import numbers

import chex
import jax
import jax.numpy as jnp

Array = jax.Array
# A number, or an array (traced ones too) where the docstring allows it.
Scalar = float | Array


def as_float(x: Array) -> Array:
  """Casts 16-bit floats to float32; float32 and float64 stay as they are."""
  x = jnp.asarray(x)
  chex.assert_type(x, float)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def check_temperature(temperature: Scalar) -> None:
  """Raises ValueError for a static temperature that is not positive."""
  if isinstance(temperature, numbers.Real) and not (0 < temperature < math.inf):
    raise ValueError(
      f"temperature={temperature} must be positive and finite; 1 leaves the "
      "predictions as they are, larger values soften them."
    )


def check_group(name: str, peers: Array, at_least: int) -> None:
  """Raises ValueError unless the first axis has enough peers."""
  if peers.shape[0] < at_least:
    raise ValueError(
      f"{name} got {peers.shape[0]} peer(s) on axis 0 (shape {peers.shape}) "
      f"and needs at least {at_least}; stack the peers' arrays on axis 0."
    )


def is_soft(labels: Array) -> bool:
  """Whether labels are probabilities [B, C] and not class indices [B]."""
  return jnp.issubdtype(jnp.asarray(labels).dtype, jnp.floating)


def check_logits(logits: Array, labels: Array) -> None:
  """Asserts logits [P, B, C], labels integer [B] or probabilities [B, C]."""
  chex.assert_rank(logits, 3)
  if is_soft(labels):
    chex.assert_shape(labels, logits.shape[1:])
  else:
    chex.assert_shape(labels, (logits.shape[1],))
    chex.assert_type(labels, int)


def weighted(weight: Scalar, term: Array) -> Array:
  """Multiplies a term by a weight without changing the term's dtype."""
  return jnp.asarray(weight, term.dtype) * term
