"""How training steps reach the devices."""

from collections.abc import Mapping, Sequence
import time
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec as P
import numpy as np

from okd_jax.core import Array, Variables
from okd_jax.data import Source
from okd_jax.data.sources.memory import MemorySource
from okd_jax.devices import mesh as mesh_lib, signals
from okd_jax.training import measures as running, state as state_lib
from okd_jax.training.chunk import Programs, States, Sums
from okd_jax.training.measures import Measures
from okd_jax.training.setup import Recipe

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
    states: States,
    keys: Sequence[Array],
    teacher: Variables | None = None,
    chunked: bool | None = None,
    unrecorded: Sequence[Mapping[str, Any]] = (),
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
      unrecorded: the property of that name, as it was at the step from which
        the groups go on, if they do.
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
    self._programs = Programs(recipe)
    self._everywhere = NamedSharding(recipe.mesh, P())
    self._step = jax.jit(
      self._programs.many_steps if chunked else self._programs.one_step,
      donate_argnums=(0, 1),
      out_shardings=(
        tuple(state_lib.shardings(recipe, state) for state in states),
        self._everywhere,
      ),
    )
    self._compiled: Any = None
    self._unrecorded = unrecorded or ({},) * len(states)
    self._measures: Measures = {}
    self._sums: Sums = ()
    self._count = 0
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

  def run(self, states: States, first: int, last: int) -> States:
    """Runs the steps first, ..., last - 1.

    Args:
      states: given away.
      first: 0-based, the steps that the states have seen.
      last: above `first`.

    Returns:
      The states after them.
    """
    while first < last:
      count = min(last - first, self._longest)
      args = self._arguments(first, count)
      warm = self._compiled is not None
      if not warm:
        self._compile(states, args)
      began = time.monotonic()
      with jax.transfer_guard("disallow"):
        states, self._sums = self._compiled(
          states, self._sums, *args, self._keys, self._teacher
        )
      # Without this the clock would only see how fast steps are queued.
      jax.block_until_ready(self._sums)
      self._count += count
      if warm:
        self._record(count, time.monotonic() - began)
      first += count
    return states

  def measured(self) -> list[Measures]:
    """Means of the groups' measures over the steps since this was called.

    Of groups that go on, since it was called before they were saved. At least
    one step must have run.
    """
    found = [running.means(sums, self._count) for sums in self._sums]
    self._unrecorded = ({},) * len(self._sums)
    self._start_sums()
    return found

  @property
  def unrecorded(self) -> list[dict[str, Any]]:
    """Of every group, as JSON values, what `measured` would return by now."""
    if not self._count:
      return [{} for _ in self._sums]
    return [running.to_json(sums, self._count) for sums in self._sums]

  def _start_sums(self):
    # All groups count the same steps.
    known = all(self._unrecorded)
    sums, counts = zip(
      *(
        running.from_json(one if known else {}, self._measures)
        for one in self._unrecorded
      ),
      strict=True,
    )
    self._count = counts[0]
    self._sums = mesh_lib.place(
      sums, jax.tree.map(lambda _: self._everywhere, sums)
    )

  def _compile(self, states, args):
    began = time.monotonic()
    if self._memory is None:
      batch = args[0][0]
    else:
      batch = self._programs.batch_from(self._memory[0].images)
    self._measures = self._programs.measures(
      states[0], batch, self._keys[0], self._teacher
    )
    self._start_sums()
    lowered = self._step.lower(
      states, self._sums, *args, self._keys, self._teacher
    )
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
    placed = mesh_lib.place(
      (rows, np.int32(count)), (self._everywhere, self._everywhere)
    )
    return self._memory[0].images, self._memory[0].labels, *placed


def _on_all_devices(recipe: Recipe, key: Array) -> Array:
  everywhere = NamedSharding(recipe.mesh, P())
  return jax.random.wrap_key_data(
    mesh_lib.place(jax.random.key_data(key), everywhere),
    impl=jax.random.key_impl(key),
  )
