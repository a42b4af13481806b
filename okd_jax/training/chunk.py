"""Programs that the devices run in one call: one training step, or many."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from okd_jax.core import Array, Batch
from okd_jax.data.sources.flat import Flat
from okd_jax.devices import mesh as mesh_lib
from okd_jax.training import measures as measures_lib
from okd_jax.training.measures import Measures
from okd_jax.training.setup import Setup
from okd_jax.training.state import TrainState

# `okd_jax.training.step.train_step` with its setup, jitted, so that it is
# traced once for all programs that contain it.
StepFn = Callable[..., tuple[TrainState, Measures]]


def one_step(
  step_fn: StepFn, state: TrainState, sums: Measures, batch: Batch, *rest: Any
) -> tuple[TrainState, Measures]:
  """Makes one update.

  Args:
    step_fn: the training step.
    state: state before the update.
    sums: sums of measures, see `okd_jax.training.measures`.
    batch: batch to learn from.
    *rest: the other arguments of the training step.

  Returns:
    The state after the update, and the sums with its measures.
  """
  state, measured = step_fn(state, batch, *rest)
  return state, measures_lib.add(sums, measured)


def many_steps(
  setup: Setup,
  step_fn: StepFn,
  state: TrainState,
  sums: Measures,
  images: Flat,
  labels: Any,
  rows: Array,
  length: Array,
  *rest: Any,
) -> tuple[TrainState, Measures]:
  """Makes the first `length` updates, in a loop that gathers its own batches.

  Args:
    setup: says how batches are split.
    step_fn: the training step.
    state: state before the updates.
    sums: sums of measures, see `okd_jax.training.measures`.
    images: the N images of the data set.
    labels: a tree of [N, ...].
    rows: int32 [n, B], which examples make up each batch.
    length: int32 scalar, up to n; compiled once for all lengths.
    *rest: the other arguments of the training step.

  Returns:
    The state after the updates, and the sums with their measures.
  """
  split = mesh_lib.sharding(setup.mesh, mesh_lib.DATA)

  def body(i, carry):
    index = rows[i]
    batch = Batch(
      image=images.take(index),
      target=jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0), labels),
      index=index,
      mask=jnp.ones(index.shape, bool),
    )
    batch = jax.lax.with_sharding_constraint(batch, split)
    return one_step(step_fn, *carry, batch, *rest)

  after: tuple[TrainState, Measures] = jax.lax.fori_loop(
    0, length, body, (state, sums)
  )
  return after


def batch_like(setup: Setup, images: Flat, labels: Any) -> Batch:
  """Shapes and shardings of the batches that `many_steps` gathers.

  Args:
    setup: says how batches are split.
    images: the N images of the data set.
    labels: a tree of [N, ...].
  """
  split = mesh_lib.sharding(setup.mesh, mesh_lib.DATA)

  def like(dtype, *shape):
    return jax.ShapeDtypeStruct(
      (setup.batch_size, *shape), dtype, sharding=split
    )

  return Batch(
    image=like(images.rows.dtype, *images.shape),
    target=jax.tree.map(lambda x: like(x.dtype, *x.shape[1:]), labels),
    index=like(jnp.int32),
    mask=like(bool),
  )


def measures_like(
  step_fn: StepFn, state: TrainState, batch: Batch, *rest: Any
) -> Measures:
  """The shapes of what is measured at one step."""
  measured: Measures = jax.eval_shape(step_fn, state, batch, *rest)[1]
  return measured
