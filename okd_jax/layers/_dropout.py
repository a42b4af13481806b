"""Dropout of a batch that is split over devices."""

from collections.abc import Sequence

import jax
from jax import lax
import jax.numpy as jnp

from okd_jax.layers._arrays import Array


def drop(
  x: Array,
  key: Array,
  *,
  rate: float,
  broadcast_dims: Sequence[int],
  axis_name: str | None,
) -> Array:
  """Sets values to zero at random and divides the others by 1 - rate.

  The mask of an example depends on its place in the whole batch, and not on the
  devices.

  Args:
    x: float [B, ...], the examples on this device.
    key: random key, the same on all devices.
    rate: share of the values that become zero, above 0 and below 1.
    broadcast_dims: axes along which the mask is the same, as in `flax`;
      negative ones count from the last. If the first axis is among them, all
      examples have the same mask.
    axis_name: mesh axis that the batch is split over; None if it is not split.

  Returns:
    The same shape and dtype.
  """
  same = {axis % x.ndim for axis in broadcast_dims}
  shape = [1 if axis in same else size for axis, size in enumerate(x.shape)]
  if 0 in same:
    keep = jax.random.bernoulli(key, 1 - rate, shape)
  else:
    first = 0 if axis_name is None else lax.axis_index(axis_name)
    keep = jax.vmap(
      lambda slot: jax.random.bernoulli(
        jax.random.fold_in(key, slot), 1 - rate, shape[1:]
      )
    )(first * len(x) + jnp.arange(len(x)))
  return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))
