"""Whether the length of a run fits what it has done already."""

from collections.abc import Sequence
import dataclasses

import jax.numpy as jnp
import numpy as np

from okd_jax.data import Source
from okd_jax.errors import ConfigError
from okd_jax.runs import records, run as run_lib
from okd_jax.settings import build
from okd_jax.settings.schema import RunConfig
from okd_jax.storage.paths import Path
from okd_jax.training.setup import Setup


def require_begun(
  config: RunConfig, setup: Setup, workdir: Path, steps: Sequence[int]
) -> None:
  """Refuses a length that a run has passed: its summary would be wrong.

  So it would be if the run was interrupted at this length while it had more
  epochs, and did not record there what is recorded at an end.
  """
  newest, clock = max(steps, default=0), setup.clock
  least = begun = clock.epoch(newest - 1) + 1
  why = f"are fewer than the {begun} epochs that {workdir} has begun"
  if newest == clock.first_step(begun) and not _is_recorded(workdir, newest):
    least += 1
    if begun == setup.epochs:
      why = (
        f"end {workdir} at step {newest}, of which metrics.jsonl has no "
        "evaluation or no training record"
      )
  if least > setup.epochs:
    raise ConfigError(
      f"config.epochs={config.epochs} and config.extra_epochs="
      f"{config.extra_epochs} {why}; set config.extra_epochs to "
      f"{least - config.epochs} or more, or choose another --workdir."
    )


def _is_recorded(workdir: Path, step: int) -> bool:
  """Whether there are both records of a step."""
  found = [r for r in records.read_metrics(workdir) if r["step"] == step]
  return {record["kind"] for record in found} == {"train", "eval"}


def require_same_rates(
  config: RunConfig,
  setup: Setup,
  source: Source,
  workdir: Path,
  steps: Sequence[int],
) -> None:
  """Refuses a new number of epochs that would have changed finished steps.

  Otherwise the run is exactly one that began with that number.
  """
  saved = run_lib.saved_config(workdir)
  if not saved or not steps:
    return
  epochs = saved.get("epochs")
  if not isinstance(epochs, int) or epochs < 1:
    raise ConfigError(
      f"{workdir / 'config.json'} is damaged: it says epochs={epochs!r}; write "
      "there what the run began with, or train into another --workdir."
    )
  if epochs == config.epochs:
    return
  before = dataclasses.replace(config, epochs=epochs, extra_epochs=0)
  begun = build.setup(before, source.info, source.train_size, setup.mesh)
  done = jnp.arange(max(steps))
  rates = [
    np.broadcast_to(made.learning_rate(done), done.shape)
    for made in (begun, setup)
    if made.learning_rate is not None
  ]
  differ = np.flatnonzero(rates[0] != rates[1])
  if len(differ):
    step = int(differ[0])
    then, now = (float(rate[step]) for rate in rates)
    raise ConfigError(
      f"config.epochs={config.epochs} must be {saved['epochs']}, as when "
      f"{workdir} began: otherwise the learning rate of step {step}, which is "
      f"done, would be {now:g} and not {then:g}. To train it longer, set "
      "config.extra_epochs."
    )
