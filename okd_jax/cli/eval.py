"""Evaluate a run by all figures of its task."""

import argparse
from collections.abc import Mapping
import logging
import os
import sys
from typing import Any

import jax

from okd_jax import tasks
from okd_jax.cli import common, evaluated, places
from okd_jax.cli.evaluated import Evaluated
from okd_jax.devices import mesh as mesh_lib
from okd_jax.errors import ConfigError, DataError
from okd_jax.results import closer as closer_lib
from okd_jax.results.closer import Closer
from okd_jax.runs import display, run as run_lib
from okd_jax.settings import build, freeze
from okd_jax.storage.paths import Path
from okd_jax.tasks.figure import (
  distinct,
  DIVERSITY,
  Figure,
  GROUP,
  peer_index,
  PEERS_MEAN,
  prediction,
)
from okd_jax.tasks.task import Task
from okd_jax.training.closely import Closely
from okd_jax.training.evaluate import Evaluator

_log = logging.getLogger(__name__)

_SPLITS = ("test", "validation", "held_out")


def add_arguments(command: argparse.ArgumentParser) -> None:
  """Adds the arguments of the command."""
  common.add_workdir(command)
  command.add_argument("--split", choices=_SPLITS, default="test")
  command.add_argument(
    "--all-peers", action="store_true", help="every peer, not only the leader"
  )
  command.add_argument(
    "--per-class",
    action="store_true",
    help="also figures of each class, confusions, reliability, agreement of "
    "peers, and the leader's mistakes; writes files, which report uses",
  )
  command.add_argument(
    "--to",
    type=places.to_write(places.place, folder=True),
    metavar="DIR",
    help="folder for the files of --per-class; by default per_class/SPLIT in "
    "the work directory of the run",
  )
  command.add_argument(
    "--data",
    type=places.place,
    metavar="PATH",
    help="where the data of the run are now, if they have moved",
  )
  common.add_json(command)


def run(args: argparse.Namespace) -> None:
  """Runs the command.

  Raises:
    DataError: if the split is empty.
    ConfigError: if the files of several runs would go to the same folder, or
      if a folder is named for files that are not asked for.
  """
  if args.to and not args.per_class:
    raise ConfigError(
      f"--to={args.to} is for the files of --per-class; add it, or leave --to "
      "out."
    )
  workdirs = common.runs(args.workdir, args.seed)
  if args.to and len(workdirs) > 1:
    raise ConfigError(
      f"--to={args.to} takes the files of one run, and {args.workdir} has "
      f"{len(workdirs)}; choose one by --seed."
    )
  found = [_evaluate(workdir, args) for workdir in workdirs]
  if len(found) > 1:
    evaluated.report_several(found, args.workdir, args.split, as_json=args.json)
  else:
    evaluated.report(found[0], args.split, as_json=args.json)


def _evaluate(workdir: Path, args: argparse.Namespace) -> Evaluated:
  config, info, _ = run_lib.about(workdir)
  to = args.to or workdir / "per_class" / args.split
  if args.per_class:
    tasks.load(info.task).require_classes()
    places.require_writable(to, folder=True)
  devices = len(jax.devices())
  parts = devices if config.eval_batch_size % devices == 0 else 1
  mesh = mesh_lib.make_mesh(parts, 1)
  opened = run_lib.run(workdir, mesh)
  # Any size that the devices divide; nothing is trained.
  untrained = {"batch_size": parts, "data.per_class": 0}
  config = freeze.replace(config, untrained)
  if args.data:
    config = freeze.replace(config, {"data.dir": os.fspath(args.data)})
  source = build.source(config, mesh)
  run_lib.require_same_data(workdir, source)
  if args.split != "test":
    run_lib.require_same_order(workdir, source)
  closely = Closely(opened.setup, per_class=args.per_class)
  asked = args.per_class or args.all_peers
  count = len(source.positions[args.split])
  passes = 1 if opened.state.average is None else 2
  batches = passes * -(-count // source.eval_batch_size)
  with display.progress("batches", batches) as progress:
    evaluator = Evaluator(opened.setup, source, lambda: progress(1))
    figures = evaluator.figures(
      opened.state, (args.split,), closely if asked else None
    )
  if not args.json:
    figures = distinct(figures)
  if not figures:
    others = [name for name in _SPLITS if len(source.positions[name])]
    remedy = f"choose {' or '.join(others)}" if others else "so are all others"
    raise DataError(f"--split={args.split} of {workdir} is empty; {remedy}.")
  task = opened.setup.task
  distances = {
    prediction(figure.measure, figure.averaged): value
    for figure, value in figures.items()
    if figure.measure == DIVERSITY
  }
  values = _by_prediction(figures, task, count, args.all_peers)
  seen = closely.seen()
  closer = None
  if seen.choices is not None:
    about = f"seed {config.seed}, step {opened.step}, {args.split}"
    names = source.names_in(args.split)
    closer = closer_lib.of(seen, info.class_names, opened.leader, about, names)
    closer_lib.write(closer, to)
    _draw(closer, to)
  first = seen.first if args.all_peers and len(seen.first) > 1 else []
  return Evaluated(
    workdir, opened.step, task, count, distances, values, first, closer
  )


def _draw(closer: Closer, to: Path) -> None:
  """Draws the plots, if possible; the tables do not need them."""
  try:
    # Optional, and slow to import.
    from okd_jax.results import closer_plots

    closer_plots.plot(closer, to)
  except ModuleNotFoundError as error:
    _log.warning(
      "No pictures were drawn: %s; pip install matplotlib adds it.", error
    )
  print(f"Files of each class are in {to}.", file=sys.stderr)


def _by_prediction(
  figures: Mapping[Figure, float], task: Task, count: int, all_peers: bool
) -> dict[str, dict[str, Any]]:
  """The measures of every prediction, and the number of examples."""
  by_prediction: dict[str, dict[str, Any]] = {}
  for figure, value in figures.items():
    single = figure.who not in (PEERS_MEAN, GROUP)
    if single and (all_peers or peer_index(figure.who) is None):
      measured = by_prediction.setdefault(figure.prediction, {})
      measured[figure.measure] = value
  for measured in by_prediction.values():
    for measure in task.measures:
      if measure.counts:
        measured[measure.counts] = round(measured[measure.name] * count)
  return by_prediction
