"""Trains several runs in turn, as one process or as one of several.

    python tests/support/jobs.py JOBS

JOBS is JSON: [{"flags": ["--config=..."], "workdir": "..."}]. A job may have

- `stop_at`: a step after which process 1 asks to stop; the same job then goes
  on, unless it has `ends`;
- `broken`: the number of a save that fails in that process;
- `silent_secs`: after that a process that gives no sign of life is lost;
- `wide`: it computes in float64.
"""

import functools
import json
import sys

import jax
import numpy as np

from okd_jax import train
from okd_jax.cli import common as cli
from okd_jax.devices import alive, distributed, mesh, signals
from okd_jax.errors import Interrupted
from okd_jax.storage import packing
from okd_jax.tasks import classification, keypoints
from okd_jax.training import state as state_lib
import toys


class StopAt(signals.Stop):
  """As if a signal came to the last process."""

  def __init__(self, step):
    super().__init__()
    self._left = step

  def agreed(self):
    self._left -= 1
    if self._left == 0 and jax.process_index() == jax.process_count() - 1:
      self._requested = True
    return super().agreed()


def break_save(number, process):
  """Lets the save of that number fail in one process."""
  whole, calls = packing.pack, []

  def pack(*args):
    calls.append(None)
    if len(calls) == number and jax.process_index() == process:
      raise OSError(28, "No space left on device")
    return whole(*args)

  packing.pack = pack


def widen():
  """Has everything computed in float64."""
  jax.config.update("jax_enable_x64", True)
  values = state_lib._initial_values
  for task in (classification.Task, keypoints.Task):
    task.of = functools.partial(task.of, image_dtype=np.float64)
  state_lib._initial_values = lambda *args: toys.widen(values(*args))


def run(job):
  if "wide" in job:
    widen()
  config, workdir = cli.read_recipe(
    ["main.py", *job["flags"], f"--workdir={job['workdir']}"]
  )
  if "silent_secs" in job:
    alive._SILENT_SECONDS = job["silent_secs"]
  if "broken" in job:
    break_save(*job["broken"])
  if "stop_at" in job:
    with StopAt(job["stop_at"]) as stop:
      try:
        train.train(config, workdir, stop=stop)
      except Interrupted:
        pass
      else:
        raise AssertionError("the run was not stopped")
    if "ends" in job:
      return
  state, _ = train.train(config, workdir)
  state = mesh.to_host(state)
  if jax.process_index() == 0:
    arrays = {
      jax.tree_util.keystr(path): leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    with (workdir / "state.npz").open("wb") as file:
      np.savez(file, **arrays)


if __name__ == "__main__":
  # Nobody looks at the curves.
  import undrawn  # noqa: F401

  with cli.exit_codes():
    distributed.initialize()
    for each in json.loads(sys.argv[1]):
      run(each)
