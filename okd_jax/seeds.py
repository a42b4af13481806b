"""One recipe trained with several seeds, one after another."""

import dataclasses
import logging
import time
from typing import Any

import jax

from okd_jax import train as train_lib
from okd_jax.devices import signals
from okd_jax.errors import ConfigError, Interrupted, NotFiniteError
from okd_jax.runs import (
  outcome,
  run as run_lib,
  same_processes,
  spread,
  workdir as workdir_lib,
)
from okd_jax.settings import config as config_lib
from okd_jax.settings.schema import RunConfig
from okd_jax.storage.paths import Path

_log = logging.getLogger(__name__)


def train(
  config: RunConfig, workdir: Path, began: float | None = None
) -> list[dict[str, Any]]:
  """Trains `config.num_seeds` groups, with config.seed and the seeds after it.

  A single seed trains in `workdir` itself. Several train in `workdir/seed<k>`,
  each as if it were trained alone there; each can be continued, evaluated and
  exported by itself. Finished seeds are skipped. When all are finished, their
  mean and standard deviation are written to `workdir`, as summary.json and
  plots.

  Args:
    config: the configuration, see `okd_jax.settings.freeze.freeze`.
    workdir: work directory of the run or runs.
    began: as for `okd_jax.train.train`.

  Returns:
    The summary of every seed.

  Raises:
    NotFiniteError: if a seed diverged; raised after the others are trained.
    ConfigError: if `workdir` holds a run of one seed and there are to be
      several, or the other way round.
    Exception: any other error of `okd_jax.train.train`.
  """
  began = time.monotonic() if began is None else began
  same_processes.require_settings(config)
  config_lib.check(config)
  _require_own_folder(config, workdir)
  if config.num_seeds == 1:
    return [train_lib.train(config, workdir, began)[1]]
  runs = {
    workdir_lib.of_seed(workdir, seed): _of_seed(config, seed)
    for seed in range(config.seed, config.seed + config.num_seeds)
  }
  # Of the largest seed, before the first is trained.
  config_lib.check([*runs.values()][-1])
  left = [
    path
    for path, of_seed in runs.items()
    if outcome.finished(of_seed, path) is None
  ]
  done = [path for path in runs if path not in left]
  diverged: list[NotFiniteError] = []
  # Around everything: signals between two runs must not be lost.
  with signals.Stop() as stop:
    for path in left:
      if stop.agreed():
        raise Interrupted(
          f"Stopped before {path.name}; the same command goes on."
        )
      print(f"\nSeed {runs[path].seed}, in {path}", flush=True)
      try:
        like = done[0] if done else None
        train_lib.train(runs[path], path, began, stop, like=like)
        done.append(path)
        began = None  # later seeds count from their own beginning
      except NotFiniteError as error:
        _log.error("Seed %d diverged: %s", runs[path].seed, error)
        diverged.append(error)
  if diverged:
    raise diverged[0]
  finished = [outcome.finished(of_seed, path) for path, of_seed in runs.items()]
  results = [result for result in finished if result is not None]
  if jax.process_index() == 0 and len(results) == len(runs):
    spread.write(workdir, results)
    train_lib.draw(workdir)
  return results


def _require_own_folder(config: RunConfig, workdir: Path) -> None:
  """Refuses one run beside those of several seeds: commands would see one."""
  found = workdir_lib.runs(workdir)
  if config.num_seeds == 1 and None not in found:
    names = ", ".join(path.name for path in found.values())
    raise ConfigError(
      f"config.num_seeds=1: {workdir} holds runs of several seeds ({names}); "
      "choose another --workdir, or set config.num_seeds as before."
    )
  if config.num_seeds > 1 and None in found and run_lib.exists(workdir):
    raise ConfigError(
      f"config.num_seeds={config.num_seeds}: {workdir} holds a run of one "
      "seed; choose another --workdir for several."
    )


def _of_seed(config: RunConfig, seed: int) -> RunConfig:
  """The configuration that trains one seed alone."""
  return dataclasses.replace(config, seed=seed, num_seeds=1)
