"""Kills a run again and again; it must end like one that was left alone.

    python scripts/soak.py --kills=50 --workdir=/tmp/soak \
      --config=configs/okddip_digits.py --config.checkpoint_secs=1
    python scripts/soak.py --hours=24 --workdir=...    (on an accelerator)
    python scripts/soak.py --short

Most kills come about when a checkpoint is written, the others at any moment,
start-up included. Every run is the same command in a fresh process.
The process ends with 0 if parameters, optimiser, memory and metrics are equal
to the last bit.
"""

import argparse
import contextlib
import dataclasses
import multiprocessing
from pathlib import Path
import random
import shutil
import sys
import tempfile
import time

import jax
import numpy as np

from okd_jax import train
from okd_jax.cli import common as cli
from okd_jax.runs import records as records_lib, run as run_lib
from okd_jax.storage import paths
from okd_jax.storage.checkpoint import Checkpoints

# Forked from a process that has imported everything and touched no device.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__, "okd_jax.results.plots"])

SHORT = (
  "--config=configs/okddip_digits.py:smoke",
  "--config.epochs=20",
  "--config.checkpoint_secs=1e-9",
)


@dataclasses.dataclass(frozen=True)
class Kill:
  """What one kill met.

  Attributes:
    saving: whether a save was cut off.
    logged: the last step that the run had recorded.
    saved: the step that the next run resumes from; 0 for the beginning.
  """

  saving: bool
  logged: int
  saved: int


def run(arguments: tuple[str, ...], workdir: Path) -> None:
  """What main.py does with these flags."""
  with cli.exit_codes():
    flags = ["main.py", *arguments, f"--workdir={workdir}"]
    config, workdir = cli.read_recipe(flags)
    cli.prepare_jax(config)
    train.train(config, workdir)


def start(arguments: tuple[str, ...], workdir: Path):
  """Starts a run in a process of its own."""
  process = PROCESSES.Process(target=run, args=(arguments, workdir))
  process.start()
  return process


def finish(arguments: tuple[str, ...], workdir: Path) -> None:
  """Runs to the end.

  Raises:
    RuntimeError: if the run fails.
  """
  process = start(arguments, workdir)
  process.join()
  if process.exitcode:
    raise RuntimeError(f"the run in {workdir} ended with {process.exitcode}.")


def kill(
  arguments: tuple[str, ...],
  workdir: Path,
  rng: random.Random,
  *,
  saves: int,
  longest: float,
) -> Kill | None:
  """Starts a run and kills it.

  Args:
    arguments: flags of main.py.
    workdir: of the run.
    rng: chooses the moment.
    saves: kill it about when it begins to save for this many times; 0 for any
      moment.
    longest: most seconds to wait if at any moment.

  Returns:
    What the kill met, or None if the run was finished first.

  Raises:
    RuntimeError: if the run failed by itself.
  """
  before = _half_written(workdir)
  process = start(arguments, workdir)
  began, wait = time.monotonic(), rng.uniform(0, longest)
  begun: set[tuple[str, int]] = set()
  while process.is_alive():
    begun |= _half_written(workdir) - before
    if saves and len(begun) >= saves:
      time.sleep(rng.choice((0, 0, 0.01, 0.1)))
      break
    if not saves and time.monotonic() - began > wait:
      break
    time.sleep(0.001)
  process.kill()
  process.join()
  if process.exitcode == 0:
    return None
  if process.exitcode != -9:
    raise RuntimeError(f"the run in {workdir} ended with {process.exitcode}.")
  logged = [record["step"] for record in records_lib.read_metrics(workdir)]
  saved = Checkpoints(workdir / "checkpoints").latest_verified()
  saving = bool(_half_written(workdir) - before)
  return Kill(saving, max(logged, default=0), saved or 0)


def compare(quiet: Path, killed: Path) -> None:
  """Compares two finished runs.

  Raises:
    AssertionError: naming the first array or record that differs.
  """
  states = [jax.device_get(run_lib.run(path).state) for path in (quiet, killed)]
  leaves = jax.tree_util.tree_leaves_with_path(states[0])
  for (path, ours), theirs in zip(
    leaves, jax.tree.leaves(states[1]), strict=True
  ):
    np.testing.assert_array_equal(
      theirs, ours, err_msg=jax.tree_util.keystr(path)
    )
  records = [records_lib.read_metrics(path) for path in (quiet, killed)]
  for ours, theirs in zip(*records, strict=True):
    np.testing.assert_equal(theirs, ours)


def _half_written(workdir: Path) -> set[tuple[str, int]]:
  """Names and inodes of what belongs to checkpoints that are not whole."""
  paths = list((workdir / "checkpoints").glob("*"))
  names = {path.name for path in paths}
  found = set()
  for path in paths:
    unnamed = (
      path.name.isdecimal() and f"{path.name}.manifest.json" not in names
    )
    if unnamed or "tmp" in path.name:
      with contextlib.suppress(FileNotFoundError):
        found.add((path.name, path.stat().st_ino))
  return found


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--kills", type=int, default=50)
  parser.add_argument("--hours", type=float, default=0.0)
  parser.add_argument("--short", action="store_true")
  parser.add_argument("--workdir", type=paths.expand)
  options, arguments = parser.parse_known_args()
  kills = 3 if options.short else options.kills
  arguments = tuple(arguments) or SHORT
  workdir = options.workdir or Path(tempfile.mkdtemp(prefix="soak"))
  quiet, killed = workdir / "quiet", workdir / "killed"
  for path in (quiet, killed):
    shutil.rmtree(path, ignore_errors=True)
  began = time.monotonic()
  finish(arguments, quiet)
  longest = 1.2 * (time.monotonic() - began)
  rng, count, saving = random.Random(0), 0, 0
  while count < kills or time.monotonic() - began < 3600 * options.hours:
    met = kill(
      *(arguments, killed, rng),
      saves=rng.choice((0, 1, 3, 9)),
      longest=longest,
    )
    if met is None:  # finished: once more from the beginning
      compare(quiet, killed)
      shutil.rmtree(killed)
      continue
    count, saving = count + 1, saving + met.saving
    print(f"kill {count}: {met}", flush=True)
  finish(arguments, killed)
  compare(quiet, killed)
  print(f"Equal after {count} kills, {saving} of them inside a save.")
  return 0


if __name__ == "__main__":
  sys.exit(main())
