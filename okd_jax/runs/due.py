"""What is due at a step of a run."""

import time

from okd_jax.devices import signals
from okd_jax.settings.schema import RunConfig
from okd_jax.training.setup import Setup


class Due:
  """Tells the training loop when to record, evaluate and save."""

  def __init__(self, setup: Setup, config: RunConfig):
    """Starts the clock of the saves.

    Args:
      setup: setup of the run, which converts steps to epochs.
      config: configuration, which says how often to record, evaluate and save.
    """
    self._setup = setup
    self._epoch = setup.clock.epoch  # of a step that begins: epochs done
    self._log_steps = config.log_steps
    self._eval_epochs = config.eval_epochs
    self._checkpoint_secs = config.checkpoint_secs
    self._saved_at = time.monotonic()

  def next_stop(self, step: int, most_steps: int) -> int:
    """The last step to run before something else is due."""
    setup = self._setup
    epoch_end = setup.clock.first_step(self._epoch(step) + 1)
    record = (step // self._log_steps + 1) * self._log_steps
    return min(epoch_end, record, step + most_steps, setup.total_steps)

  def refresh(self, step: int) -> bool:
    """Whether the method's `refresh` is due before a step."""
    epoch = self._epoch(step)
    if not self._setup.method.needs.held_out or epoch == 0:
      return False
    return step == self._setup.clock.first_step(epoch)

  def record(self, step: int) -> bool:
    """Whether measures are to be recorded after a step."""
    return step % self._log_steps == 0 or step == self._setup.total_steps

  def evaluation(self, step: int) -> bool:
    """Whether the group is to be evaluated after a step."""
    if step == self._setup.total_steps:
      return True
    done = self._epoch(step)
    return done > self._epoch(step - 1) and done % self._eval_epochs == 0

  def save(self, step: int) -> bool:
    """Whether to save after a step; all processes get the same answer."""
    overdue = time.monotonic() - self._saved_at > self._checkpoint_secs
    return step == self._setup.total_steps or signals.agree(overdue)

  def saved(self) -> None:
    """Starts the clock of the saves anew."""
    self._saved_at = time.monotonic()
