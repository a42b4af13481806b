"""The work directories of runs that are trained at once: one a seed."""

from collections.abc import Iterator
import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import jax

from okd_jax.data import Source
from okd_jax.runs import records as logs, run as reopen, trackers
from okd_jax.settings import config as config_lib
from okd_jax.settings.schema import RunConfig
from okd_jax.storage.checkpoint import Checkpoints
from okd_jax.storage.lock import RunLock


@dataclasses.dataclass(frozen=True)
class Workdir:
  """What belongs to one run.

  Attributes:
    config: of the run.
    path: of its folder.
    source: its data, in the order of its seed.
    checkpoints: in the folder.
  """

  config: RunConfig
  path: Path
  source: Source
  checkpoints: Checkpoints


def make(config: RunConfig, path: Path, source: Source) -> Workdir:
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


def require_same_run(config: RunConfig, path: Path) -> None:
  """Raises ConfigError if a folder holds a run of another configuration."""
  saved = reopen.saved_config(path)
  if saved is not None:
    config_lib.require_resumable(config, saved)
