"""Connects the processes of a run, which the environment describes."""

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
  """Connects the processes of a run; call it before devices are used.

  It does nothing for a run of one process. Of several processes only process 0
  prints: the standard output of the others is discarded.

  Raises:
    ConfigError: if the environment names a coordinator, but not the number of
      processes or the index of this one.
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
  """Whether this process is one of several; uses no device."""
  return _detected() is not None


def detect(
  environ: Mapping[str, str], *, on_tpu: bool
) -> dict[str, Any] | None:
  """The arguments for `jax.distributed.initialize`.

  Args:
    environ: the environment variables.
    on_tpu: whether this is a Cloud TPU machine.

  Returns:
    The arguments; an empty dict if JAX detects everything itself (SLURM, Cloud
    TPU), and None for a run of one process.

  Raises:
    ConfigError: as for `initialize`.
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
  # srun sets it in every task of a step.
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
