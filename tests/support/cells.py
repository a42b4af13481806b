"""Comparisons whose cells take no time; as a program, a worker on one.

The program takes what `python -m okd_jax compare` takes. Cells only write what
a run leaves behind, and when they began and ended into `$CELLS_LOG`; each
takes `$CELLS_SECONDS`.
"""

import dataclasses
import json
import os
from pathlib import Path
import sys
import time

from configs import compare_digits
from okd_jax import __main__, train as train_lib
from okd_jax.data.info import DataInfo
from okd_jax.errors import Interrupted
from okd_jax.results import grid
from okd_jax.settings import freeze
from okd_jax.storage import files

ROOT = Path(__file__).resolve().parents[2]
DIGITS = tuple(map(str, range(10)))
PROGRAM = (sys.executable, str(Path(__file__).resolve()))


def small(**changes):
  """A grid of runs of three steps."""
  config = compare_digits.get_config("smoke")
  config.base.epochs = 1
  config.base.data.train_examples = 60
  config.base.peers.num_peers = 2
  config.base.mesh.data = 1
  config.update(changes)
  return freeze.freeze_comparison(config)


def pretend(config, workdir, last=0.5, best=0.5, speed=100.0):
  """Writes what a run leaves behind."""
  files.make_folder(workdir)
  names = ["leader", "peer_0"]
  if config.peers.num_peers > 1:
    names += ["peer_1", "peers_mean", "ensemble", "fused"]
  records = [
    {"step": step, "kind": "eval", "test/diversity": step / 100}
    | {f"test/{name}/accuracy": value for name in names}
    for step, value in ((5, best), (10, last))
  ]
  epochs = config.epochs + config.extra_epochs
  summary = {"epochs": epochs, "images_per_second": speed}
  for name, content in (
    ("metrics.jsonl", "\n".join(map(json.dumps, records)) + "\n"),
    ("config.json", json.dumps(freeze.as_dict(config))),
    ("data.json", json.dumps(_about(config))),
    ("summary.json", json.dumps(summary)),
  ):
    (workdir / name).write_text(content)


def _about(config):
  """Of data of which an epoch is ten steps."""
  info = DataInfo(
    "digits", 10, (8, 8, 1), (0.3,), (0.4,), 1, False, 1437, 360, DIGITS
  )
  return dataclasses.asdict(info) | {"train_size": 10 * config.batch_size}


def listed(workdir):
  """The cells of `flags`, which `small` makes, too."""
  config = small(methods=("independent", "kd"))
  return grid.cells(config, workdir)


def flags(workdir, *others):
  """Of a comparison of eight cells, two of them teachers of two."""
  return [
    f"--config={ROOT}/configs/compare_digits.py:smoke",
    "--config.methods=('independent','kd')",
    "--config.base.epochs=1",
    "--config.base.data.train_examples=60",
    "--config.base.peers.num_peers=2",
    "--config.base.mesh.data=1",
    f"--workdir={workdir}",
    *others,
  ]


def train(config, workdir, stop, still_ours, like):
  """Instead of `okd_jax.train.train`."""
  name = "/".join(workdir.parts[-3:])

  def log(what):
    with Path(os.environ["CELLS_LOG"]).open("a") as file:
      file.write(f"{what} {name} {os.getpid()}\n")

  log("begin")
  until = time.monotonic() + float(os.environ["CELLS_SECONDS"])
  while time.monotonic() < until:
    if stop.agreed():
      raise Interrupted("before its end")
    time.sleep(0.01)
  still_ours()
  pretend(config, workdir)
  log("end")


if __name__ == "__main__":
  train_lib.train = train
  __main__.main(["compare", *sys.argv[1:]])
