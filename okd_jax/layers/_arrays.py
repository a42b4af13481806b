"""What all layers need to know of arrays."""

import jax
from jax import lax
import jax.numpy as jnp

Array = jax.Array


def at_least_float32(x: Array) -> Array:
  """Casts 16-bit floats to float32 and leaves float32 and float64 alone."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def unit_vectors(x: Array) -> Array:
  """Divides by the Euclidean norm of the last axis; zeros stay zeros."""
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return x * lax.rsqrt(jnp.maximum(square, 1e-24))


def vary(x: Array, over: Array, but: str | None = None) -> Array:
  """Marks `x` as varying over the mesh axes that `over` varies over.

  What varies over a mesh axis in one varies in the gradient of the other, so a
  gradient written by hand needs it. `but` names an axis that is left as it is.
  """
  have, wanted = (
    jax.typeof(value).manual_axis_type.varying for value in (x, over)
  )
  return lax.pcast(x, tuple(sorted(wanted - have - {but})), to="varying")
