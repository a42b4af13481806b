"""Averages of variables over the steps of a run."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from okd_jax import schedules
from okd_jax.core import Array, Outputs
from okd_jax.training import state as state_lib
from okd_jax.training.setup import Setup
from okd_jax.training.state import Average, TrainState, variables

# Averages over a larger part of a run hold weights from before its rate has
# fallen for the last time.
_MOST_OF_RUN = 0.25
# Of fewer no average makes sense.
_FEW_STEPS = 10


def note(setup: Setup) -> str:
  """A sentence if averages reach back over too much of a run; else ""."""
  decay, total = setup.average_decay, setup.total_steps
  if decay is None or total < _FEW_STEPS:
    return ""
  steps, most = 1 / (1 - decay), _MOST_OF_RUN * total
  if steps <= most * (1 + 1e-9):
    return ""
  # Rounded down, so that it fits.
  digits = len(str(total)) - 1
  fits = math.floor(10**digits * (1 - 1 / most)) / 10**digits
  key = "config.ema_decay" if setup.ema_decay else "config.method.ema_decay"
  return (
    f"averages reach back over {steps:,.0f} steps and the run has {total:,}, "
    "so they may be worse than the live networks; "
    f"{key}={fits:.{digits}f} fits."
  )


def outputs(
  setup: Setup, average: Average | None, memory: Any, images: Array, key: Array
) -> tuple[Outputs | None, Any]:
  """Passes a batch through the averaged peers, if the method asks for it.

  Args:
    setup: what stays fixed during the run.
    average: the average of the state.
    memory: memory of the average after an earlier pass.
    images: [B, H, W, c], or one view per peer.
    key: random key of the peers' dropout.

  Returns:
    Their outputs, without gradient, and their memory after the pass.
  """
  if average is None or setup.method.needs.ema_decay is None:
    return None, memory
  said, peers_memory = setup.peers.apply(
    variables(average.params, memory, "peers"),
    images,
    key,
    train=not setup.method.needs.average_statistics,
  )
  return jax.lax.stop_gradient(said), {**memory, "peers": peers_memory}


def updated(
  setup: Setup, state: TrainState, params: Any, memory: Any, passed: Any
) -> Average | None:
  """The average after a step.

  Args:
    setup: what stays fixed during the run.
    state: state before the step.
    params: parameters after the step.
    memory: memory after the step; parts that no batch changes in the averages
      are averaged, too.
    passed: the average's own memory, if batches pass its peers.
  """
  decay = setup.average_decay
  if state.average is None or decay is None:
    return None
  phi = schedules.ema_decay(state.step + 1, decay)

  def mean(old: Array, new: Array) -> Array:
    if not jnp.issubdtype(new.dtype, jnp.floating):
      return new
    return (phi * old + (1 - phi) * new).astype(old.dtype)

  averaged = jax.tree.map(
    mean,
    state.average.memory,
    state_lib.without_per_example(setup.method, memory),
  )
  needs = setup.method.needs
  if needs.ema_decay is not None and not needs.average_statistics:
    averaged["peers"] = passed["peers"]
  return Average(
    params=jax.tree.map(mean, state.average.params, params), memory=averaged
  )
