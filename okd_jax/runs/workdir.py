"""The work directory of a run: whose it is, and its checkpoints."""

import contextlib
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from okd_jax.runs import run as run_lib
from okd_jax.settings import config as config_lib
from okd_jax.storage.checkpoint import Checkpoints
from okd_jax.storage.lock import RunLock


def checkpoints(config: ConfigDict, workdir: Path) -> Checkpoints:
  """The checkpoints of a run; nothing is written yet."""
  return Checkpoints(
    workdir / "checkpoints", config_hash=config_lib.digest(config)
  )


def lock(workdir: Path) -> contextlib.AbstractContextManager[Any]:
  """Keeps other programs from training in a folder."""
  # The processes of one run share the folder; the first one speaks for all.
  first = jax.process_index() == 0
  return RunLock(workdir) if first else contextlib.nullcontext()


def require_same_run(config: ConfigDict, workdir: Path) -> None:
  """Raises ConfigError if a folder holds a run of another configuration."""
  saved = run_lib.saved_config(workdir)
  if saved is not None:
    config_lib.require_resumable(config, saved)


def as_begun(config: ConfigDict, workdir: Path) -> ConfigDict:
  """The configuration, with what a run keeps from its beginning.

  Runs of earlier releases did not turn pictures as EXIF says.
  """
  saved = run_lib.saved_config(workdir)
  if saved is None:
    return config
  begun = config.copy_and_resolve_references()
  begun.data.exif = saved.get("data", {}).get("exif", False)
  return begun
