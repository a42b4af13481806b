"""How training steps reach the devices."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
import numpy as np

from okd_jax import mesh as mesh_lib, signals, state as state_lib, steps
from okd_jax.core import Array, Batch, Variables
from okd_jax.data import Source
from okd_jax.data.memory import MemorySource
from okd_jax.mesh import DATA
from okd_jax.recipe import Recipe
from okd_jax.state import TrainState

# What one call should take, so that signals and progress stay alive.
_SECONDS = (0.75, 2.0)
# Longest chunk: what the host sends is at most this many rows of indices.
_MOST_STEPS = 512


class Dispatch:
  """Runs the jitted training step over the batches of a source.

  On accelerators, and with the data set on the device, many steps are one
  call: a loop on the device gathers its own batches.

  Attributes:
    most_steps: how many steps one call should run, so that signals and
      progress stay alive.
    compile_seconds: tracing and compiling, zero before the first call.
    train_seconds: spent in `run` after that, by the clock on the wall.
  """

  def __init__(
    self,
    recipe: Recipe,
    source: Source,
    state: TrainState,
    key: Array,
    teacher: Variables | None = None,
    chunked: bool | None = None,
  ):
    """Prepares the step; it is compiled when `run` is called first.

    Args:
      recipe: what stays fixed.
      source: of the training batches.
      state: for its shapes.
      key: of the run.
      teacher: variables of the frozen teachers, if the method needs them.
      chunked: run many steps in one call. None does where that is faster: not
        on CPU, where convolutions in a loop are many times slower.
    """
    memory = source if isinstance(source, MemorySource) else None
    if chunked is None:
      on_cpu = recipe.mesh.devices.flat[0].platform == "cpu"
      chunked = memory is not None and not on_cpu
    elif chunked and memory is None:
      raise ValueError(
        f"chunked={chunked} needs the data set on the device, but the source "
        f"is a {type(source).__name__}; set config.data.source='memory'."
      )
    self._recipe = recipe
    self._source = source
    self._memory = memory if chunked else None
    everywhere = NamedSharding(recipe.mesh, P())
    self._key = jax.random.wrap_key_data(
      mesh_lib.place(jax.random.key_data(key), everywhere),
      impl=jax.random.key_impl(key),
    )
    self._teacher = teacher
    self._longest = min(_MOST_STEPS, recipe.total_steps) if chunked else 1
    self._step = jax.jit(
      functools.partial(train_chunk if chunked else steps.train_step, recipe),
      donate_argnums=0,
      out_shardings=(state_lib.shardings(recipe, state), None),
    )
    self._compiled: Any = None
    self._batches: Any = None
    self._next = -1
    self._steps_timed = 0
    self.most_steps = 1
    self.compile_seconds = 0.0
    self.train_seconds = 0.0

  @property
  def images_per_second(self) -> float:
    """Training speed since the first step, evaluation left out."""
    if not self.train_seconds:
      return 0.0
    return self._steps_timed * self._recipe.batch_size / self.train_seconds

  def run(
    self, state: TrainState, first: int, last: int
  ) -> tuple[TrainState, dict[str, Any]]:
    """Runs the steps first, ..., last - 1.

    Args:
      state: given away.
      first: 0-based, the steps that the state has seen.
      last: above `first`.

    Returns:
      The state after them, and the measures of the last one.
    """
    measured: dict[str, Any] = {}
    while first < last:
      count = min(last - first, self._longest)
      args = self._arguments(first, count)
      warm = self._compiled is not None
      if not warm:
        self._compile(state, args)
      began = time.monotonic()
      with jax.transfer_guard("disallow"):
        state, measured = self._compiled(state, *args, self._key, self._teacher)
      # Without this the clock would only see how fast steps are queued.
      jax.block_until_ready(measured["gradient_norm"])
      if warm:
        self._record(count, time.monotonic() - began)
      first += count
    return state, measured

  def _compile(self, state, args):
    began = time.monotonic()
    lowered = self._step.lower(state, *args, self._key, self._teacher)
    self._compiled = lowered.compile()
    self.compile_seconds = time.monotonic() - began

  def _record(self, count, seconds):
    self.train_seconds += seconds
    self._steps_timed += count
    if self._memory is not None and count == self.most_steps:
      least, most = _SECONDS
      # All processes must run chunks of the same length.
      if signals.agree(seconds > most):
        self.most_steps = max(1, self.most_steps // 2)
      elif not signals.agree(seconds > least):
        self.most_steps = min(2 * self.most_steps, self._longest)

  def _arguments(self, first, count):
    if self._memory is None:
      if first != self._next:
        self._batches = self._source.batches(first)
      self._next = first + 1
      return (next(self._batches),)
    rows = np.zeros((self._longest, self._recipe.batch_size), np.int32)
    for i in range(count):
      rows[i] = self._memory.order(first + i)
    everywhere = NamedSharding(self._recipe.mesh, P())
    placed = mesh_lib.place((rows, np.int32(count)), (everywhere, everywhere))
    return self._memory.images, self._memory.labels, *placed


def train_chunk(
  recipe: Recipe,
  state: TrainState,
  images: Array,
  labels: Array,
  rows: Array,
  length: Array,
  key: Array,
  teacher: Variables | None,
) -> tuple[TrainState, dict[str, Any]]:
  """Makes the first `length` updates of rows [n, B], compiled once for all."""
  step = jax.jit(functools.partial(steps.train_step, recipe))

  def one(state, index):
    batch = Batch(
      image=jnp.take(images, index, axis=0),
      label=jnp.take(labels, index),
      index=index,
      mask=jnp.ones(index.shape, bool),
    )
    split = NamedSharding(recipe.mesh, P(DATA))
    batch = jax.lax.with_sharding_constraint(batch, split)
    return step(state, batch, key, teacher)

  measured = jax.tree.map(
    lambda shape: jnp.zeros(shape.shape, shape.dtype),
    jax.eval_shape(one, state, rows[0])[1],
  )
  return jax.lax.fori_loop(
    0, length, lambda i, carry: one(carry[0], rows[i]), (state, measured)
  )
