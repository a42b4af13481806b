"""A batch in parts, one after another, whose gradients are averaged."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from okd_jax.batch import has_views
from okd_jax.core import Array, Batch, Context
from okd_jax.devices import mesh as mesh_lib
from okd_jax.training.setup import Setup


def split(setup: Setup, batch: Batch) -> Batch:
  """Adds a leading axis of parts to a batch.

  Part i of n has the examples i, i + n, ..., so that every device keeps its own
  examples and has the same number of them in every part.

  Args:
    setup: the setup with the number of parts, which divides B.
    batch: a batch with images [B, H, W, c], or one view per peer
      [P, B, H, W, c].
  """
  count, axis = setup.accumulate, 1 if setup.task.per_peer else 0

  def cut(array: Array, axis: int = 0) -> Array:
    size = array.shape[axis] // count
    shape = (*array.shape[:axis], size, count, *array.shape[axis + 1 :])
    return jnp.moveaxis(array.reshape(shape), axis + 1, 0)

  return Batch(
    image=cut(batch.image, 1 if has_views(batch.image) else 0),
    target=jax.tree.map(lambda leaf: cut(leaf, axis), batch.target),
    index=cut(batch.index),
    mask=cut(batch.mask),
  )


def context(ctx: Context, part: Array) -> Context:
  """What a method may know at a part of a step."""
  return dataclasses.replace(ctx, key=jax.random.fold_in(ctx.key, part))


def scan(
  setup: Setup, body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any
) -> tuple[Any, Any]:
  """Calls `body(carry, part)` for every part, as `jax.lax.scan`."""
  # Convolutions in a loop are many times slower on CPU.
  unroll = mesh_lib.on_cpu(setup.mesh)
  result: tuple[Any, Any] = jax.lax.scan(body, carry, xs, unroll=unroll)
  return result
