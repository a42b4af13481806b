"""Runs training steps on the devices."""

from collections.abc import Iterator, Mapping
import time
from typing import Any

import jax
import numpy as np

from okd_jax.core import Array, Batch, Variables
from okd_jax.data.sources.memory import MemorySource
from okd_jax.data.sources.source import Source
from okd_jax.devices import mesh as mesh_lib, processes, signals
from okd_jax.groups import once
from okd_jax.training import (
  chunk,
  measures as measures_lib,
  state as state_lib,
  step as steps,
)
from okd_jax.training.measures import Measures
from okd_jax.training.setup import Setup
from okd_jax.training.state import TrainState

# What one call should take, so that signals and progress stay alive.
_SECONDS = (0.75, 2.0)
# Longest chunk: what the host sends is at most this many rows of indices.
_MOST_STEPS = 512


class Runner:
  """Runs the jitted training step of a group.

  On accelerators, and with the data set on the device, many steps are one
  call: a loop on the device gathers its own batches.

  Attributes:
    most_steps: how many steps one call should run at most, so that signals and
      progress are handled in time.
    compile_seconds: time of tracing and compiling, zero before the first call.
    first_step_seconds: time of the first call after that.
    train_seconds: wall-clock time in `run` after that.
  """

  def __init__(
    self,
    setup: Setup,
    source: Source,
    state: TrainState,
    key: Array,
    teacher: Variables | None = None,
    chunked: bool | None = None,
    unrecorded: Mapping[str, Any] | None = None,
  ):
    """Prepares the step; it is compiled when `run` is called first.

    Args:
      setup: what stays fixed during the run.
      source: source of the training batches.
      state: the state; only its shapes matter.
      key: random key of the run.
      teacher: variables of the frozen teachers, if the method needs them.
      chunked: whether to run many steps in one call. None does so where it is
        faster: not on CPU, where convolutions in a loop are many times slower.
      unrecorded: for a resumed run, the property of that name at the step from
        which it continues.
    """
    memory = source if isinstance(source, MemorySource) else None
    if chunked is None:
      chunked = memory is not None and not mesh_lib.on_cpu(setup.mesh)
    elif chunked and memory is None:
      raise ValueError(
        f"chunked={chunked} needs the data set on the device, but the source "
        f"is a {type(source).__name__}; set config.data.source='memory'."
      )
    self._setup, self._source = setup, source
    self._memory = memory if chunked else None
    self._everywhere = mesh_lib.sharding(setup.mesh)
    labels = None
    if setup.method.needs.train_labels:
      labels = mesh_lib.place(
        source.train_labels(setup.num_examples), self._everywhere
      )
    self._rest = (mesh_lib.place(key, self._everywhere), teacher, labels)
    self._longest = min(_MOST_STEPS, setup.total_steps) if chunked else 1
    self._step_fn = once.jitted(steps.train_step, setup)
    program = (chunk.many_steps, setup) if chunked else (chunk.one_step,)
    self._program = once.jitted(
      *program,
      self._step_fn,
      donate_argnums=(0, 1),
      out_shardings=(state_lib.shardings(setup, state), self._everywhere),
    )
    self._compiled: Any = None
    self._unrecorded = unrecorded or {}
    self._measures: Measures = {}
    self._sums: Measures = {}
    self._batches: Iterator[Batch] = iter(())
    self._next = -1
    self._count = self._steps_timed = 0
    self.most_steps = 1
    self.compile_seconds = self.first_step_seconds = 0.0
    self.train_seconds = 0.0

  @property
  def images_per_second(self) -> float:
    """Training speed since the first step, without evaluation."""
    if not self.train_seconds:
      return 0.0
    return self._steps_timed * self._setup.batch_size / self.train_seconds

  def run(self, state: TrainState, first: int, last: int) -> TrainState:
    """Runs the steps first, ..., last - 1.

    Args:
      state: the state, whose memory is donated.
      first: 0-based; number of steps that the state has seen.
      last: end of the steps, above `first`.

    Returns:
      The state after these steps.
    """
    while first < last:
      count = min(last - first, self._longest)
      args = self._arguments(first, count)
      warm = self._compiled is not None
      if not warm:
        self._compile(state, args)
      began = time.monotonic()
      with jax.transfer_guard("disallow"):
        state, self._sums = self._compiled(
          state, self._sums, *args, *self._rest
        )
      # Without this the clock would only see how fast steps are queued.
      jax.block_until_ready(self._sums)
      self._count += count
      if warm:
        self._time(count, time.monotonic() - began)
      else:
        self.first_step_seconds = time.monotonic() - began
      first += count
    return state

  def measured(self) -> Measures:
    """Means of the measures over the steps since the last call of this.

    In a resumed run, this may be a call before the run was saved. At least one
    step must have run.
    """
    means = measures_lib.means(self._sums, self._count)
    self._unrecorded = {}
    self._start_sums()
    return means

  @property
  def unrecorded(self) -> dict[str, Any]:
    """What `measured` would return now, as JSON values."""
    if not self._count:
      return {}
    return measures_lib.to_json(self._sums, self._count)

  def _start_sums(self):
    sums, self._count = measures_lib.from_json(self._unrecorded, self._measures)
    self._sums = mesh_lib.place(
      sums, jax.tree.map(lambda _: self._everywhere, sums)
    )

  def _compile(self, state, args):
    began = time.monotonic()
    if self._memory is None:
      batch = args[0]
    else:
      batch = chunk.batch_like(
        self._setup, self._memory.images, self._memory.labels
      )
    self._measures = chunk.measures_like(
      self._step_fn, state, batch, *self._rest
    )
    self._start_sums()
    lowered = self._program.lower(state, self._sums, *args, *self._rest)
    self._compiled = lowered.compile()
    self.compile_seconds = time.monotonic() - began
    # Gloo waits half a minute where devices first meet, and compilers differ.
    processes.gather("compiled")

  def _time(self, count, seconds):
    """Counts the time of a call, and chooses the length of the next."""
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
    rows = np.zeros((self._longest, self._setup.batch_size), np.int32)
    for i in range(count):
      rows[i] = self._memory.order(first + i)
    placed = mesh_lib.place(
      (rows, np.int32(count)), (self._everywhere, self._everywhere)
    )
    return self._memory.images, self._memory.labels, *placed
