"""One recipe trained with several seeds: at once where that is faster."""

from collections.abc import Sequence
import dataclasses
import logging
from pathlib import Path
import time
from typing import Any

import jax

from okd_jax import train as train_lib
from okd_jax.devices import signals
from okd_jax.errors import Interrupted, NotFiniteError
from okd_jax.runs import summary
from okd_jax.settings import build, config as config_lib, layout
from okd_jax.settings.schema import RunConfig
from okd_jax.storage.checkpoint import Checkpoints
from okd_jax.training import autotune
from okd_jax.weights import teacher

_log = logging.getLogger(__name__)


def train(
  config: RunConfig, workdir: Path, began: float | None = None
) -> list[dict[str, Any]]:
  """Trains `config.num_seeds` groups, of the seeds config.seed and after it.

  One seed trains in `workdir` itself. Several train in `workdir/seed<k>`, each
  as if it were trained alone there, and every one of them can be continued,
  evaluated and exported by itself. Seeds that are finished are left alone.

  Args:
    config: see `okd_jax.settings.freeze.freeze`.
    workdir: of the run or runs.
    began: as for `okd_jax.train.train`.

  Returns:
    The summary of every seed.

  Raises:
    NotFiniteError: if a seed diverged, after the others have been trained.
    Exception: whatever else `okd_jax.train.train` raises.
  """
  began = time.monotonic() if began is None else began
  config_lib.check(config)
  if config.num_seeds == 1:
    return [train_lib.train(config, workdir, began)[1]]
  runs = {
    workdir / f"seed{seed}": _of_seed(config, seed)
    for seed in range(config.seed, config.seed + config.num_seeds)
  }
  left = [
    path for path, own in runs.items() if summary.finished(own, path) is None
  ]
  diverged: list[NotFiniteError] = []
  # Around everything: signals between two runs must not be lost.
  with signals.Stop() as stop:
    if _at_once(config, left, runs):
      try:
        train_lib.train_at_once(
          [runs[path] for path in left], left, began, stop
        )
        left = []
      except NotFiniteError as error:
        _log.warning("%s The seeds go on one by one.", error)
    for path in left:
      if stop.agreed():
        raise Interrupted(
          f"Stopped before {path.name}; the same command goes on."
        )
      print(f"\nSeed {runs[path].seed}, in {path}", flush=True)
      try:
        train_lib.train(runs[path], path, began, stop)
        began = None  # later seeds count from their own beginning
      except NotFiniteError as error:
        _log.error("Seed %d diverged: %s", runs[path].seed, error)
        diverged.append(error)
  if diverged:
    raise diverged[0]
  finished = [summary.finished(own, path) for path, own in runs.items()]
  return [each for each in finished if each is not None]


def _of_seed(config: RunConfig, seed: int) -> RunConfig:
  """The configuration that trains one seed alone."""
  return dataclasses.replace(config, seed=seed, num_seeds=1)


def _at_once(
  config: RunConfig, left: Sequence[Path], runs: dict[Path, RunConfig]
) -> bool:
  if len(left) < 2:
    return False
  if not _in_step(left, runs):
    print("The seeds stopped at different steps and go on one by one.")
    return False
  if jax.devices()[0].platform == "cpu":
    return False  # known; there is no need to read the data
  mesh = layout.mesh(config)
  source = build.source(config, mesh)
  taught_by, _ = teacher.load(config, source.info, mesh)
  recipe = build.recipe(config, source.info, source.train_size, mesh, taught_by)
  return autotune.seeds_at_once(autotune.settle(recipe), len(left))


def _in_step(left: Sequence[Path], runs: dict[Path, RunConfig]) -> bool:
  """Whether no run has begun, or all have saved the step of the last one."""
  checkpoints = [
    Checkpoints(path / "checkpoints", config_hash=config_lib.digest(runs[path]))
    for path in left
  ]
  newest = [each.latest_verified() for each in checkpoints]
  saved = [step for step in newest if step is not None]
  if len(saved) < len(newest):
    return not saved
  return all(min(saved) in each.steps() for each in checkpoints)
