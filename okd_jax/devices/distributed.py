"""Connects the processes of a run, which the environment describes."""

from collections.abc import Iterator, Mapping
import contextlib
import importlib.util
import os
from pathlib import Path
import sys
import threading
from typing import Any

import jax

from okd_jax.devices import alive, early, signals
from okd_jax.errors import ConfigError

_COORDINATOR = "JAX_COORDINATOR_ADDRESS"
_OWN = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")

# Until a process that waits for the others says so, and until it gives up.
_TELL_SECONDS, _GIVE_UP_SECONDS = 20.0, 300.0


def initialize() -> None:
  """Connects the processes of a run; call it before devices are used.

  It does nothing for a run of one process. Of several processes only process 0
  prints: the standard output of the others is discarded. If the others do not
  come, the program ends with exit code 75.

  Raises:
    ConfigError: if the environment describes the processes wrongly or in part.
  """
  found = _detected()
  if found is not None:
    with _explained(found):
      jax.distributed.initialize(
        **found,
        # JAX gives up by a stack trace of C++, so it should not be the first.
        initialization_timeout=round(2 * _GIVE_UP_SECONDS) + 60,
        heartbeat_timeout_seconds=alive.JAX_SECONDS,
      )
    early.renew()  # JAX has a handler of its own
    alive.start()
    if jax.process_index() != 0:
      sys.stdout = open(os.devnull, "w")


@contextlib.contextmanager
def _explained(found: Mapping[str, Any]) -> Iterator[None]:
  """Says what a process waits for, and ends it if that does not come."""
  connected = threading.Event()
  who = "this process"
  if _COORDINATOR in os.environ:
    who = f"process {found['process_id']} of {found['num_processes']}"
    who += f" at {found['coordinator_address']}"

  def watch() -> None:
    if connected.wait(_TELL_SECONDS):
      return
    print(
      f"okd_jax: {who} waits for the other processes of the run; start each of "
      f"them once, with the same settings. It gives up after "
      f"{_GIVE_UP_SECONDS:g} s.",
      file=sys.stderr,
      flush=True,
    )
    if not connected.wait(_GIVE_UP_SECONDS - _TELL_SECONDS):
      signals.exit_now(
        f"okd_jax: {who} did not find the others within {_GIVE_UP_SECONDS:g} s."
        " See whether all of them run and reach the address of process 0."
      )

  threading.Thread(target=watch, name="distributed", daemon=True).start()
  try:
    yield
  finally:
    connected.set()


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
    if own >= count:
      raise ConfigError(
        f"{_OWN[1]}={own} must be below {_OWN[0]}={count}; give the processes "
        f"the numbers 0 to {count - 1}."
      )
    address = environ[_COORDINATOR]
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
      raise ConfigError(
        f"{_COORDINATOR}='{address}' must be HOST:PORT; name the machine of "
        "process 0 and a port that is free there, such as 10.0.0.1:1234."
      )
    return {
      "coordinator_address": address,
      "num_processes": count,
      "process_id": own,
    }
  # srun sets it in every task of a step.
  if int(environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
    return {}
  if on_tpu:
    return {}
  if alone := [name for name in _OWN if name in environ]:
    raise ConfigError(
      f"{alone[0]}='{environ[alone[0]]}' needs {_COORDINATOR}, without which "
      "every process would be a run of its own; set it to HOST:PORT of process "
      f"0, or unset {' and '.join(alone)}."
    )
  return None


def _detected() -> dict[str, Any] | None:
  return detect(os.environ, on_tpu=_on_tpu())


def _on_tpu() -> bool:
  devices = (Path("/dev/accel0"), Path("/dev/vfio/0"))
  return importlib.util.find_spec("libtpu") is not None and any(
    path.exists() for path in devices
  )
