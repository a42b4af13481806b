"""Checks whether the processes of a run can reach each other."""

from collections.abc import Mapping, Sequence
import json
import threading
import time
import uuid

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import numpy as np

from okd_jax.devices import processes, signals
from okd_jax.storage import files
from okd_jax.storage.paths import Path

# What was looked at, what was found, and whether it is as it should be.
Finding = tuple[str, str, bool]

# Summed over all devices, that many on each.
_MEGABYTES = 16
# What devices do together may wait for ever, behind a firewall for example.
_PATIENCE_SECONDS = 120.0


def examine(
  workdir: Path, versions: Mapping[str, str], findings: Sequence[Finding]
) -> list[Finding]:
  """Examines several processes; all call this at the same time.

  Args:
    workdir: a folder or bucket that all of them must be able to use.
    versions: versions of the packages of this process.
    findings: findings about this process alone.

  Returns:
    In process 0, its own findings, the problems of the other processes and the
    common findings.
  """
  wrong = [(what, found) for what, found, fine in findings if not fine]
  others = [
    (f"process {process}: {what}", found, False)
    for process, text in enumerate(processes.gather(json.dumps(wrong)))
    for what, found in json.loads(text)
    if process != processes.place()[0]
  ]
  return [
    *findings,
    *others,
    *_hosts(),
    _versions(versions),
    _workdir(workdir),
    *_together(),
  ]


def _hosts() -> list[Finding]:
  said = processes.gather(
    f"{processes.whoami()}, {jax.local_device_count()} device(s)"
  )
  return [(f"process {i}", each, True) for i, each in enumerate(said)]


def _versions(own: Mapping[str, str]) -> Finding:
  of_all = [json.loads(each) for each in processes.gather(json.dumps(own))]
  differ = [
    f"{name} "
    + ", ".join(
      f"{versions.get(name)} in process {process}"
      for process, versions in enumerate(of_all)
    )
    for name in own
    if len({versions.get(name) for versions in of_all}) > 1
  ]
  if differ:
    return "versions of all", "; ".join(differ), False
  return "versions of all", "alike", True


def _workdir(workdir: Path) -> Finding:
  """Every process writes a file, and looks for those of the others."""
  process, count = processes.place()
  token = processes.gather(uuid.uuid4().hex)[0]

  def of(i: int) -> Path:
    return workdir / f"doctor-{token}-{i}.txt"

  problem = ""
  try:
    files.make_folder(workdir)
    files.write(of(process), str(process))
  except Exception as error:  # a bucket's client raises anything
    problem = f"cannot be written by process {process}: {error}"
  written = processes.gather(problem)
  if not any(written):
    missing = [i for i in range(count) if not of(i).exists()]
    if missing:
      problem = (
        f"process {process} does not see what process {missing[0]} wrote"
      )
  problems = list(filter(None, processes.gather(problem)))
  if not written[process]:
    of(process).unlink(missing_ok=True)
  if problems:
    return f"workdir {workdir}", "; ".join(problems), False
  return f"workdir {workdir}", "written and seen by all", True


def _together() -> list[Finding]:
  """Lets the devices of all processes compute a sum."""
  found: list[Finding] = []

  def work() -> None:
    for what, act in (("one collective", _collective), ("sum", _sum)):
      try:
        found.append((what, *act()))
      except Exception as error:  # whatever it is, this is what was asked for
        found.append((what, f"{type(error).__name__}: {error}", False))
        return

  worker = threading.Thread(target=work, daemon=True)
  worker.start()
  worker.join(_PATIENCE_SECONDS)
  if worker.is_alive():
    what = f"not done after {_PATIENCE_SECONDS:g} s; is a port closed?"
    return [*found, ("devices together", what, False)]
  return found


def _collective() -> tuple[str, bool]:
  began = time.monotonic()
  signals.agree(False)
  return f"{time.monotonic() - began:.2f} s", True


def _sum() -> tuple[str, bool]:
  """Sums an array of every device, as gradients are summed."""
  devices = jax.devices()
  mesh = jax.make_mesh((len(devices),), ("all",), axis_types=(AxisType.Auto,))
  row = np.ones((1, _MEGABYTES * 250_000), np.float32)
  given = jax.make_array_from_callback(
    (len(devices), row.shape[1]), NamedSharding(mesh, P("all")), lambda _: row
  )
  total = jax.jit(lambda x: x.sum(0), out_shardings=NamedSharding(mesh, P()))
  total(given).block_until_ready()
  began = time.monotonic()
  found = total(given).block_until_ready()
  seconds = time.monotonic() - began
  text = (
    f"{_MEGABYTES} MB of each of {len(devices)} devices in {seconds:.3f} s, "
    f"{_MEGABYTES / 1000 / seconds:.2f} GB/s"
  )
  fine = bool(np.asarray(found.addressable_data(0))[0] == len(devices))
  return text, fine
