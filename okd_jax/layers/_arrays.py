"""Functions of arrays that all layers use."""

import jax
from jax import lax
import jax.numpy as jnp

Array = jax.Array


def at_least_float32(x: Array) -> Array:
  """Casts 16-bit floats to float32; float32 and float64 stay as they are."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def unit_vectors(x: Array) -> Array:
  """Divides by the Euclidean norm of the last axis; zeros stay zeros."""
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return x * lax.rsqrt(jnp.maximum(square, 1e-24))


def vary(x: Array, over: Array, but: str | None = None) -> Array:
  """Marks `x` as varying over the mesh axes that `over` varies over.

  Gradients that are written by hand need it: if one argument varies over a mesh
  axis, the gradient of the other varies, too. `but` names an axis to leave as
  it is.
  """
  have, wanted = (
    jax.typeof(value).manual_axis_type.varying for value in (x, over)
  )
  return lax.pcast(x, tuple(sorted(wanted - have - {but})), to="varying")
