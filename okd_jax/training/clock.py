"""The one place that converts steps and epochs into each other."""

import dataclasses
from typing import TypeVar

import jax
import jax.numpy as jnp

Array = jax.Array
Step = TypeVar("Step", int, Array)


@dataclasses.dataclass(frozen=True)
class Clock:
  """Counts steps and epochs of a run.

  Attributes:
    batch_size: examples in one step.
    train_size: examples seen in one epoch.
    epochs: length of the run.
  """

  batch_size: int
  train_size: int
  epochs: int

  @property
  def steps_per_epoch(self) -> int:
    """Steps that begin in an epoch, rounded up."""
    return -(-self.train_size // self.batch_size)

  @property
  def total_steps(self) -> int:
    """Steps until every example was seen `epochs` times, rounded up."""
    return self.first_step(self.epochs)

  def first_step(self, epoch: int) -> int:
    """The first step that begins in a 0-based epoch."""
    return -(-epoch * self.train_size // self.batch_size)

  def steps_of(self, epochs: float) -> int:
    """The steps nearest to a number of epochs, which may have a fraction."""
    return round(epochs * self.train_size / self.batch_size)

  def epoch(self, step: Step) -> Step:
    """The 0-based epoch that a step begins in: examples seen // N."""
    return step * self.batch_size // self.train_size

  def time(self, step: Array) -> Array:
    """The same with its fraction, float32."""
    # Integer arithmetic first: float32 cannot hold the count of examples.
    part = step * self.batch_size % self.train_size
    whole = self.epoch(step).astype(jnp.float32)
    return whole + part.astype(jnp.float32) / self.train_size
