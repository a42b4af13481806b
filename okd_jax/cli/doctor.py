"""Check packages, devices, disk space and data, and compile one step."""

import argparse
import functools
from importlib import metadata
import os
import pathlib
import platform
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np

from okd_jax import backbones, groups, methods
from okd_jax.cli import hosts, places
from okd_jax.cli.hosts import Finding
from okd_jax.core import Batch
from okd_jax.data.formats import publisher, tfds as prepared
from okd_jax.data.info import KNOWN
from okd_jax.devices import alive, distributed, host, processes
from okd_jax.devices.mesh import make_mesh
from okd_jax.errors import ConfigError, DataError, UnreachableError
from okd_jax.runs import display
from okd_jax.storage import bucket
from okd_jax.storage.paths import Path
from okd_jax.tasks import classification
from okd_jax.training import state as state_lib, step as steps
from okd_jax.training.optim import Optim
from okd_jax.training.setup import with_optim

_PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "chex",
  "orbax-checkpoint",
  "ml-collections",
  "safetensors",
  "pillow",
  "scikit-learn",
  "matplotlib",
  "tensorflow-cpu",
  "tensorflow-datasets",
  "wandb",
  "mlflow",
)

_ABSENT = "not installed"

# Twice the state of four ResNet-8, as a save of the smallest recipe needs.
_LEAST_BYTES = 5_000_000


def add_arguments(command: argparse.ArgumentParser) -> None:
  """Adds the arguments of the command."""
  command.add_argument(
    "--workdir",
    type=places.place,
    metavar="DIR",
    default=pathlib.Path("."),
    help="folder of future runs; if there are several processes, all of them "
    "must be able to use it",
  )


def run(args: argparse.Namespace) -> None:
  """Runs the command; the program ends with code 1 if anything is wrong.

  If it is started in several processes, as a run is, it also checks what they
  see of each other; the first one prints.
  """
  distributed.initialize()
  findings = examine(args.workdir)
  if processes.place()[1] > 1:
    versions = {"python": platform.python_version()} | {
      name: _version(name) for name in _PACKAGES
    }
    findings = hosts.examine(args.workdir, versions, findings)
  display.table(
    "What is here",
    ["what", "found"],
    [
      (what, found if fine else f"PROBLEM: {found}")
      for what, found, fine in findings
    ],
  )
  if not all(fine for *_, fine in findings):
    alive.leave(1, "something is wrong there")


def examine(workdir: Path = pathlib.Path(".")) -> list[Finding]:
  """Examines this machine; trains nothing and downloads nothing.

  Args:
    workdir: folder of the results, where the free space is checked.

  Returns:
    The findings, in the order in which to read them. A finding is a problem
    only if it prevents every run; packages that only some runs need are
    reported as absent.
  """
  return [
    ("python", platform.python_version(), True),
    *((name, _version(name), True) for name in _PACKAGES),
    *_devices(),
    ("memory", _memory(), True),
    *_space(workdir),
    *_data_sets(),
    _step(),
  ]


def _version(name: str) -> str:
  try:
    return metadata.version(name)
  except metadata.PackageNotFoundError:
    return _ABSENT


def _devices() -> list[Finding]:
  try:
    devices = jax.devices()
  except RuntimeError as error:
    return [("devices", f"none: {error}", False)]
  found = f"{len(devices)} {devices[0].device_kind} ({devices[0].platform})"
  findings = [("devices", found, True)]
  # Absent on a CPU.
  stats = jax.local_devices()[0].memory_stats() or {}
  if limit := stats.get("bytes_limit"):
    used = stats.get("bytes_in_use", 0)
    text = f"{limit / 1e9:.1f} GB, {used / 1e9:.1f} GB in use"
    findings.append(("memory of a device", text, True))
  return findings


def _memory() -> str:
  try:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  except (AttributeError, ValueError, OSError):  # not on every system
    return "unknown"
  return f"{size / 1e9:.1f} GB, {host.cores()} cores"


def _space(workdir: Path) -> list[Finding]:
  if not isinstance(workdir, pathlib.Path):
    return []
  try:
    places.require_writable(
      workdir, folder=True, remedy="choose another --workdir"
    )
  except ConfigError as error:
    return [("free disk", str(error), False)]
  there = next(p for p in (workdir, *workdir.absolute().parents) if p.exists())
  free = shutil.disk_usage(there).free
  if free < _LEAST_BYTES:
    return [("free disk", f"{free / 1e6:.1f} MB: no run could save", False)]
  return [("free disk", f"{free / 1e9:.1f} GB", True)]


def _data_sets() -> list[Finding]:
  names = [name for name in KNOWN if name != "digits"]
  try:
    folder = prepared.data_dir("")
    with bucket.reached(folder):
      if folder.is_dir():
        names += sorted(p.name for p in folder.iterdir() if p.name not in names)
  except (ConfigError, UnreachableError) as error:
    return [("data", str(error), False)]
  digits = "part of scikit-learn"
  if _version("scikit-learn") == _ABSENT:
    digits += f", which is {_ABSENT}"
  findings = [("data: digits", digits, True)]
  for name in names:
    try:
      place = prepared.find(name, folder)
      files = publisher.find(name, folder) if name in KNOWN else ()
    except (DataError, UnreachableError) as error:
      findings.append((f"data: {name}", str(error), False))
      continue
    if place:
      findings.append((f"data: {name}", f"prepared in {place}", True))
    elif files:
      findings.append((f"data: {name}", f"files in {files[0].parent}", True))
    elif name in KNOWN:
      findings.append((f"data: {name}", f"not in {folder}", True))
  return findings


def _step() -> Finding:
  what = "one step of OKDDip"
  try:
    began = time.monotonic()
    loss = _first_loss()
  except Exception as error:  # whatever it is, this is what was asked for
    return what, f"{type(error).__name__}: {error}", False
  text = f"loss {loss:.2f} after {time.monotonic() - began:.1f} s"
  return what, text, bool(np.isfinite(loss))


def _first_loss() -> float:
  info = KNOWN["digits"]
  mesh = make_mesh(devices=jax.local_devices())
  setup = with_optim(
    Optim(),
    peers=groups.replicas(backbones.make("resnet8", info.num_classes), 2, mesh),
    method=methods.make("okddip"),
    task=classification.Task.of(info),
    epochs=1,
    batch_size=8 * mesh.size,
    train_size=info.num_train,
    rampup_epochs=1,
  )
  state = state_lib.init(setup, jax.random.key(0))
  rng = np.random.default_rng(0)
  shape = (setup.batch_size, *info.image_shape)
  batch = Batch(
    image=jnp.asarray(rng.integers(0, 256, shape, dtype=np.uint8)),
    target=jnp.asarray(rng.integers(0, info.num_classes, setup.batch_size)),
    index=jnp.arange(setup.batch_size),
    mask=jnp.ones(setup.batch_size, bool),
  )
  step = jax.jit(functools.partial(steps.train_step, setup))
  measured = step(state, batch, jax.random.key(1))[1]
  return float(sum(np.sum(term) for term in measured["terms"].values()))
