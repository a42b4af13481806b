"""The one place that converts steps and epochs into each other."""

import dataclasses
import numbers
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from okd_jax.errors import ConfigError

Array = jax.Array
Step = TypeVar("Step", int, Array)
_MOST_EXAMPLES = 2**31 - 1


def require_count(name: str, value: Any) -> None:
  """Raises ConfigError unless a value is a whole number above 0."""
  if not isinstance(value, numbers.Integral) or value < 1:
    raise ConfigError(f"{name}={value!r} must be a whole number above 0.")


@dataclasses.dataclass(frozen=True)
class Clock:
  """Counts steps and epochs of a run.

  Attributes:
    batch_size: examples in one step.
    train_size: examples seen in one epoch.
    epochs: length of the run.

  Raises:
    ConfigError: if one of them is no whole number above 0, or if there are too
      many examples in all to count them in int32.
  """

  batch_size: int
  train_size: int
  epochs: int

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      require_count(field.name, getattr(self, field.name))
    if self.epochs * self.train_size + self.batch_size > _MOST_EXAMPLES:
      raise ConfigError(
        f"config.epochs={self.epochs} (config.extra_epochs included) of "
        f"{self.train_size} examples, and a batch of {self.batch_size}, must "
        f"be at most {_MOST_EXAMPLES} examples, as they are counted on the "
        "device in int32; train fewer epochs."
      )

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
