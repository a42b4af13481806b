"""The learning rate as a function of the step."""

from collections.abc import Callable, Sequence
import dataclasses

import jax
import jax.numpy as jnp
import optax

from okd_jax import rules, schedules
from okd_jax.errors import ConfigError
from okd_jax.training.clock import Clock

Array = jax.Array

NAMES = ("multistep", "cosine", "linear", "one_cycle", "constant")
# For one_cycle: the share of the steps in which it rises; what the full rate is
# divided by at the beginning; and what that is divided by at the end (Smith &
# Topin, as in PyTorch and optax).
_RISE, _START, _END = 0.3, 25.0, 1e4


@dataclasses.dataclass(frozen=True)
class Schedule:
  """How the learning rate changes during a run.

  Attributes:
    name: "multistep" multiplies the rate by config.optim.factor at
      config.optim.drops; "cosine" and "linear" lower it a little at every step;
      "one_cycle" raises it and then lowers it; "constant" keeps it.
    warmup_epochs: epochs at the beginning in which the rate rises to its full
      value; need not be a whole number. With one_cycle the length of the rise,
      where 0 is 30 % of the run.
    warmup_steps: the same in steps; set only one of the two.
    final: rate that cosine and linear end with, as a fraction of the full rate.
  """

  name: str = rules.one_of("multistep", *NAMES, added=True)
  warmup_epochs: float = rules.at_least(0.0, 0, added=True)
  warmup_steps: int = rules.between(0, 0, 2**31, added=True)
  final: float = rules.between(0.0, 0, 1, added=True)


MULTISTEP = Schedule()


def make(
  schedule: Schedule,
  clock: Clock,
  *,
  base: float,
  drops: Sequence[float] = (),
  factor: float = 0.1,
) -> Callable[[Array], Array]:
  """The learning rate as a function of the 0-based step.

  Step k of w warm-up steps, counted from 1, has k / w of the rate. A warm-up
  does not move the drops of multistep; cosine and linear fall in the steps
  after it, and reach their final value after the last step.

  Args:
    schedule: the settings of the schedule.
    clock: the clock of the run.
    base: the full rate.
    drops: for multistep, when the rate drops, as fractions of the epochs.
    factor: for multistep, what every drop multiplies the rate by.

  Returns:
    A function of a number or an array.

  Raises:
    ConfigError: if a setting breaks its rule, or if the warm-up is as long as
      the run.
  """
  rules.check(schedule, "config.schedule")
  warmup = _warmup(schedule, clock)
  if schedule.name == "one_cycle":
    return _one_cycle(base, warmup, clock)
  rest = clock.total_steps - warmup
  end = schedule.final
  decay: Callable[[Array], Array]
  if schedule.name == "multistep":
    decay = _multistep(base, drops, factor, clock)
  elif schedule.name == "cosine":
    decay = _after(warmup, optax.cosine_decay_schedule(base, rest, end))
  elif schedule.name == "linear":
    decay = _after(warmup, optax.linear_schedule(base, end * base, rest))
  else:
    decay = optax.constant_schedule(base)
  if not warmup:
    return lambda step: jnp.asarray(decay(step))
  return lambda step: decay(step) * jnp.minimum(1, (step + 1) / warmup)


def _warmup(schedule: Schedule, clock: Clock) -> int:
  """Steps of warm-up."""
  if not schedule.warmup_epochs:
    key, steps = "steps", schedule.warmup_steps
  else:
    key, steps = "epochs", clock.steps_of(schedule.warmup_epochs)
  if schedule.warmup_epochs and schedule.warmup_steps:
    raise ConfigError(
      f"config.schedule.warmup_epochs={schedule.warmup_epochs} and "
      f"config.schedule.warmup_steps={schedule.warmup_steps}: only one of them "
      "counts; set the other to 0."
    )
  if steps and steps >= clock.total_steps:
    value = getattr(schedule, f"warmup_{key}")
    raise ConfigError(
      f"config.schedule.warmup_{key}={value} must be shorter than the run of "
      f"{clock.epochs} epochs, {clock.total_steps} steps; lower it, or raise "
      "config.epochs."
    )
  return steps


def _multistep(
  base: float, drops: Sequence[float], factor: float, clock: Clock
) -> Callable[[Array], Array]:
  # The first epoch has the full rate, however short the run is.
  epochs = tuple(max(1, round(part * clock.epochs)) for part in drops)

  def rate(step: Array) -> Array:
    # Whole epochs, so that a drop is never a rounding error early. Extra
    # epochs stay at the rate of the last one.
    epoch = jnp.minimum(clock.epoch(step), clock.epochs - 1)
    return jnp.asarray(
      schedules.multistep(epoch, base=base, drops=epochs, factor=factor)
    )

  return rate


def _after(
  warmup: int, fall: Callable[[Array], Array]
) -> Callable[[Array], Array]:
  return lambda step: fall(jnp.maximum(step - warmup, 0))


def _one_cycle(
  base: float, rise: int, clock: Clock
) -> Callable[[Array], Array]:
  total = clock.total_steps
  rise = rise or max(1, int(_RISE * total))
  # Half a step more, as optax rounds the product down.
  share = (rise + 0.5) / total
  # Optax takes one step at a time here.
  rate: Callable[[Array], Array] = jnp.vectorize(
    optax.cosine_onecycle_schedule(total, base, share, _START, _END)
  )
  return rate
