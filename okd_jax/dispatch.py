"""How training steps reach the devices."""

import functools
import time
from typing import Any

import jax

from okd_jax import state as state_lib, steps
from okd_jax.core import Array, Variables
from okd_jax.data import Source
from okd_jax.recipe import Recipe
from okd_jax.state import TrainState


class Dispatch:
  """Runs the jitted training step over the batches of a source.

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
  ):
    self._recipe = recipe
    self._source = source
    self._key = key
    self._teacher = teacher
    where = state_lib.shardings(recipe, state)
    self._step = jax.jit(
      functools.partial(steps.train_step, recipe),
      donate_argnums=0,
      out_shardings=(where, None),
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
    if first != self._next:
      self._batches = self._source.batches(first)
    measured: dict[str, Any] = {}
    for _ in range(first, last):
      batch = next(self._batches)
      if self._compiled is None:
        began = time.monotonic()
        lowered = self._step.lower(state, batch, self._key, self._teacher)
        self._compiled = lowered.compile()
        self.compile_seconds = time.monotonic() - began
        state, measured = self._timed(state, batch)
        self.train_seconds, self._steps_timed = 0.0, 0
      else:
        state, measured = self._timed(state, batch)
    self._next = last
    return state, measured

  def _timed(self, state, batch):
    began = time.monotonic()
    with jax.transfer_guard("disallow"):
      result = self._compiled(state, batch, self._key, self._teacher)
    # Without this the clock would only see how fast steps are queued.
    jax.block_until_ready(result[1]["gradient_norm"])
    self.train_seconds += time.monotonic() - began
    self._steps_timed += 1
    return result
