"""The work directories of runs that are trained at once: one a seed."""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from okd_jax.data import Source
from okd_jax.runs import records as logs, run as reopen, trackers
from okd_jax.settings import config as config_lib
from okd_jax.storage.checkpoint import Checkpoints
from okd_jax.storage.lock import RunLock
from okd_jax.training import setup as recipe_lib, state as state_lib
from okd_jax.training.setup import Recipe
from okd_jax.training.state import TrainState
from okd_jax.weights import export, init_from

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Workdir:
  """What belongs to one run.

  Attributes:
    config: of the run.
    path: of its folder.
    source: its data, in the order of its seed.
    checkpoints: in the folder.
  """

  config: ConfigDict
  path: Path
  source: Source
  checkpoints: Checkpoints


def make(config: ConfigDict, path: Path, source: Source) -> Workdir:
  """Puts together what belongs to a run; nothing is written yet."""
  checkpoints = Checkpoints(
    path / "checkpoints", config_hash=config_lib.digest(config)
  )
  return Workdir(config, path, source.reseeded(config.seed), checkpoints)


def lock(path: Path) -> contextlib.AbstractContextManager[Any]:
  """Keeps other programs from training in a folder."""
  # The processes of one run share the folder; the first one speaks for all.
  first = jax.process_index() == 0
  return RunLock(path) if first else contextlib.nullcontext()


@contextlib.contextmanager
def writer(run: Workdir, step: int) -> Iterator[logs.Writer]:
  """Opens the records of a run that goes on after a step."""
  if jax.process_index() != 0:
    yield logs.NoWriter()
    return
  with (
    trackers.started(run.config, run.path) as tracking,
    logs.Writer(
      run.path, resume_step=step or None, trackers=tracking
    ) as opened,
  ):
    yield opened


def require_same_run(config: ConfigDict, path: Path) -> None:
  """Raises ConfigError if a folder holds a run of another configuration."""
  saved = reopen.saved_config(path)
  if saved is not None:
    config_lib.require_resumable(config, saved)


def take_away(run: reopen.Run) -> None:
  """Exports the leader and draws the curves.

  A finished run stands without them, so no failure here is one of training;
  `python -m okd_jax export` and `plot` try again.
  """
  try:
    export.export(run, run.workdir / "leader")
  except Exception as error:
    _log.warning("The leader was not exported: %s", error)
  if jax.process_index() != 0:
    return
  try:
    # Takes seconds to import, and is not needed to train.
    from okd_jax.results import plots

    plots.plot(run.workdir)
  except Exception as error:
    _log.warning("No curves were drawn: %s", error)


def initial_or_saved(
  recipe: Recipe, runs: Sequence[Workdir]
) -> tuple[tuple[TrainState, ...], int, list[dict[str, Any]]]:
  """States of all runs after the newest step that all have saved.

  Returns:
    The states, the step, and the extra values saved with each of them.
  """
  step = min(run.checkpoints.latest_verified() or 0 for run in runs)
  states, extras = [], []
  for run in runs:
    key = recipe_lib.random_keys(run.config.seed)[0]
    if step:
      abstract = state_lib.abstract(recipe, key)
      state, _, extra = run.checkpoints.restore(abstract, step)
    else:
      extra = {}
      state = state_lib.init(recipe, key)
      if run.config.init_from:
        state = init_from.fill(recipe, state, Path(run.config.init_from))
    states.append(state)
    extras.append(extra)
  return tuple(states), step, extras
