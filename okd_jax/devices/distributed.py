"""Runs of several processes: who takes part, found out from the environment."""

from collections.abc import Mapping
import importlib.util
import os
from pathlib import Path
import sys
from typing import Any

import jax

from okd_jax.devices import alive
from okd_jax.errors import ConfigError

_COORDINATOR = "JAX_COORDINATOR_ADDRESS"
_OWN = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def initialize() -> None:
  """Connects the processes of a run, before the first device is touched.

  Does nothing for a run of one process. Of several the first one prints.

  Raises:
    ConfigError: if the environment names a coordinator and not the rest.
  """
  found = _detected()
  if found is not None:
    jax.distributed.initialize(
      **found, heartbeat_timeout_seconds=alive.JAX_SECONDS
    )
    alive.start()
    if jax.process_index() != 0:
      sys.stdout = open(os.devnull, "w")


def expected() -> bool:
  """Whether this process is one of several, without touching a device."""
  return _detected() is not None


def detect(
  environ: Mapping[str, str], *, on_tpu: bool
) -> dict[str, Any] | None:
  """What `jax.distributed.initialize` must be told.

  Args:
    environ: the environment variables.
    on_tpu: whether this is a Cloud TPU machine.

  Returns:
    Its arguments, none where JAX detects everything (SLURM, Cloud TPU), or
    None for a run of one process.
  """
  if _COORDINATOR in environ:
    given = {name: environ.get(name, "") for name in _OWN}
    wrong = [name for name, value in given.items() if not value.isdecimal()]
    if wrong:
      raise ConfigError(
        f"{wrong[0]}='{given[wrong[0]]}' must be a number where {_COORDINATOR} "
        f"is set; set {' and '.join(_OWN)} in every process."
      )
    count, own = (int(given[name]) for name in _OWN)
    return {
      "coordinator_address": environ[_COORDINATOR],
      "num_processes": count,
      "process_id": own,
    }
  # Set by srun, in every task of a step.
  if int(environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
    return {}
  return {} if on_tpu else None


def _detected() -> dict[str, Any] | None:
  return detect(os.environ, on_tpu=_on_tpu())


def _on_tpu() -> bool:
  devices = (Path("/dev/accel0"), Path("/dev/vfio/0"))
  return importlib.util.find_spec("libtpu") is not None and any(
    path.exists() for path in devices
  )
