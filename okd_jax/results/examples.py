"""Pictures of the leader's predictions for a few examples."""

import dataclasses
import io

import jax
import numpy as np

from okd_jax import tasks
from okd_jax.devices import mesh as mesh_lib
from okd_jax.groups import once
from okd_jax.runs import run as run_lib, workdir as workdir_lib
from okd_jax.settings import build
from okd_jax.storage import files
from okd_jax.storage.paths import Path
from okd_jax.training import step as steps


def draw(workdir: Path, to: Path | None = None) -> list[Path]:
  """Draws the first examples of the validation or, without it, test split.

  Args:
    workdir: folder of a run, or of the runs of several seeds, of which the
      first is taken.
    to: folder for the pictures; `plots` in the work directory by default.

  Returns:
    The files written; none if the task has no such pictures.

  Raises:
    CheckpointError: if the run has no verified checkpoint yet.
    ConfigError: if there is no run.
    DataError: if its data are missing or have changed.
  """
  first = next(iter(workdir_lib.runs(workdir).values()))
  config, info, _ = run_lib.about(first)
  count = tasks.load(info.task).num_pictures
  if not count:
    return []
  on = mesh_lib.make_mesh(1, 1)
  opened = run_lib.run(first, on)
  config = dataclasses.replace(config, batch_size=1, eval_batch_size=count)
  source = build.source(config, on)
  run_lib.require_same_data(first, source)
  split = "validation" if len(source.positions["validation"]) else "test"
  batch = next(source.evaluation(split))
  predict = once.jitted(steps.predict, opened.setup)
  logits, _ = predict(*opened.deployed, batch)
  shown = np.flatnonzero(batch.mask)
  some, leader = jax.tree.map(
    lambda leaf: leaf[shown], (batch, logits[opened.leader])
  )
  folder = to or workdir / "plots"
  files.make_folder(folder)
  written = []
  for name, picture in opened.setup.task.pictures(some, leader).items():
    content = io.BytesIO()
    picture.save(content, "PNG")
    written.append(folder / f"{name}.png")
    files.write(written[-1], content.getvalue())
  return written
