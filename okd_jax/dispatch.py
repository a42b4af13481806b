"""How training steps reach the devices."""

from collections.abc import Callable, Sequence
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
  """Runs the jitted training step of one group, or of several at once.

  Several groups differ in their seeds alone, and each has batches of its own.
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
    sources: Sequence[Source],
    states: Sequence[TrainState],
    keys: Sequence[Array],
    teacher: Variables | None = None,
    chunked: bool | None = None,
  ):
    """Prepares the step; it is compiled when `run` is called first.

    Args:
      recipe: what stays fixed.
      sources: of the training batches, one a group.
      states: for their shapes.
      keys: of the runs.
      teacher: variables of the frozen teachers, if the method needs them.
      chunked: run many steps in one call. None does where that is faster: not
        on CPU, where convolutions in a loop are many times slower.
    """
    memory = [one for one in sources if isinstance(one, MemorySource)]
    in_memory = len(memory) == len(sources)
    if chunked is None:
      on_cpu = recipe.mesh.devices.flat[0].platform == "cpu"
      chunked = in_memory and not on_cpu
    elif chunked and not in_memory:
      raise ValueError(
        f"chunked={chunked} needs the data set on the device, but the source "
        f"is a {type(sources[0]).__name__}; set config.data.source='memory'."
      )
    self._recipe = recipe
    self._sources = sources
    self._memory = memory if chunked else None
    self._keys = tuple(_on_all_devices(recipe, key) for key in keys)
    self._teacher = teacher
    self._longest = min(_MOST_STEPS, recipe.total_steps) if chunked else 1
    self._step = jax.jit(
      functools.partial(train_chunk if chunked else train_steps, recipe),
      donate_argnums=0,
      out_shardings=(
        tuple(state_lib.shardings(recipe, state) for state in states),
        None,
      ),
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
    images = self._recipe.batch_size * len(self._sources)
    return self._steps_timed * images / self.train_seconds

  def run(
    self, states: tuple[TrainState, ...], first: int, last: int
  ) -> tuple[tuple[TrainState, ...], tuple[dict[str, Any], ...]]:
    """Runs the steps first, ..., last - 1.

    Args:
      states: given away.
      first: 0-based, the steps that the states have seen.
      last: above `first`.

    Returns:
      The states after them, and the measures of the last one.
    """
    measured: tuple[dict[str, Any], ...] = ()
    while first < last:
      count = min(last - first, self._longest)
      args = self._arguments(first, count)
      warm = self._compiled is not None
      if not warm:
        self._compile(states, args)
      began = time.monotonic()
      with jax.transfer_guard("disallow"):
        states, measured = self._compiled(
          states, *args, self._keys, self._teacher
        )
      # Without this the clock would only see how fast steps are queued.
      jax.block_until_ready(measured[0]["gradient_norm"])
      if warm:
        self._record(count, time.monotonic() - began)
      first += count
    return states, measured

  def _compile(self, states, args):
    began = time.monotonic()
    lowered = self._step.lower(states, *args, self._keys, self._teacher)
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
        self._batches = [source.batches(first) for source in self._sources]
      self._next = first + 1
      return (tuple(next(batches) for batches in self._batches),)
    shape = len(self._memory), self._longest, self._recipe.batch_size
    rows = np.zeros(shape, np.int32)
    for one, source in zip(rows, self._memory, strict=True):
      for i in range(count):
        one[i] = source.order(first + i)
    everywhere = NamedSharding(self._recipe.mesh, P())
    placed = mesh_lib.place((rows, np.int32(count)), (everywhere, everywhere))
    return self._memory[0].images, self._memory[0].labels, *placed


def train_steps(
  recipe: Recipe,
  states: tuple[TrainState, ...],
  batches: tuple[Batch, ...],
  keys: tuple[Array, ...],
  teacher: Variables | None = None,
) -> tuple[tuple[TrainState, ...], tuple[dict[str, Any], ...]]:
  """Makes one update of each of several groups, as `steps.train_step` does."""
  many = len(states)
  step = _of_each(recipe, many, teacher)
  state, measured = step(_pack(states), _pack(batches), _pack(keys))
  return _unpack(state, many), _unpack(measured, many)


def train_chunk(
  recipe: Recipe,
  states: tuple[TrainState, ...],
  images: Array,
  labels: Array,
  rows: Array,
  length: Array,
  keys: tuple[Array, ...],
  teacher: Variables | None,
) -> tuple[tuple[TrainState, ...], tuple[dict[str, Any], ...]]:
  """Makes the first `length` updates of each of several groups.

  Args:
    recipe: what stays fixed.
    states: before the updates.
    images: uint8 [N, H, W, c], the data set that all share.
    labels: int32 [N].
    rows: int32 [groups, n, B], which examples make up each batch.
    length: int32 scalar, up to n; compiled once for all.
    keys: of the runs.
    teacher: variables of the frozen teachers, if the method needs them.

  Returns:
    The states after them, and the measures of the last one.
  """
  many = len(states)
  step = _of_each(recipe, many, teacher)

  def gather(index):
    batch = Batch(
      image=jnp.take(images, index, axis=0),
      label=jnp.take(labels, index),
      index=index,
      mask=jnp.ones(index.shape, bool),
    )
    split = NamedSharding(recipe.mesh, P(DATA))
    return jax.lax.with_sharding_constraint(batch, split)

  def one(state, index):
    return step(state, _pack([gather(own) for own in index]), _pack(keys))

  state = _pack(states)
  measured = jax.tree.map(
    lambda shape: jnp.zeros(shape.shape, shape.dtype),
    jax.eval_shape(one, state, rows[:, 0])[1],
  )
  state, measured = jax.lax.fori_loop(
    0, length, lambda i, carry: one(carry[0], rows[:, i]), (state, measured)
  )
  return _unpack(state, many), _unpack(measured, many)


def _of_each(
  recipe: Recipe, many: int, teacher: Variables | None
) -> Callable[..., Any]:
  """The step of one group; of several, it takes and returns packed trees."""
  step = jax.jit(
    lambda state, batch, key: steps.train_step(
      recipe, state, batch, key, teacher
    )
  )
  return step if many == 1 else jax.vmap(step)


def _pack(trees: Sequence[Any]) -> Any:
  """Stacks the trees of several groups; that of one stays as it is."""
  if len(trees) == 1:
    return trees[0]
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _unpack(tree: Any, many: int) -> tuple[Any, ...]:
  if many == 1:
    return (tree,)
  return tuple(
    jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(many)
  )


def _on_all_devices(recipe: Recipe, key: Array) -> Array:
  everywhere = NamedSharding(recipe.mesh, P())
  return jax.random.wrap_key_data(
    mesh_lib.place(jax.random.key_data(key), everywhere),
    impl=jax.random.key_impl(key),
  )
