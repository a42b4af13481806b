"""Evaluate a run: all figures of its task."""

import argparse
from collections.abc import Mapping
import dataclasses
from typing import Any

import jax

from okd_jax.cli import common
from okd_jax.devices import mesh as mesh_lib
from okd_jax.errors import DataError
from okd_jax.runs import display, run as run_lib
from okd_jax.settings import build
from okd_jax.tasks.figure import (
  DIVERSITY,
  Figure,
  GROUP,
  peer_index,
  PEERS_MEAN,
  prediction,
)
from okd_jax.tasks.task import Task
from okd_jax.training.evaluate import Evaluator


def add_arguments(command: argparse.ArgumentParser) -> None:
  """Adds what the command takes."""
  common.add_workdir(command)
  command.add_argument(
    "--split", choices=("test", "validation", "held_out"), default="test"
  )
  command.add_argument(
    "--all-peers", action="store_true", help="every peer, not the leader alone"
  )
  common.add_json(command)


def run(args: argparse.Namespace) -> None:
  """Runs the command.

  Raises:
    DataError: if the split is empty.
  """
  config = run_lib.about(args.workdir)[0]
  devices = len(jax.devices())
  spread = devices if config.eval_batch_size % devices == 0 else 1
  mesh = mesh_lib.make_mesh(spread, 1)
  opened = run_lib.run(args.workdir, mesh)
  task = opened.setup.task
  # Any size that the devices divide; nothing is trained.
  config = dataclasses.replace(config, batch_size=spread)
  source = build.source(config, mesh)
  evaluator = Evaluator(opened.setup, source)
  figures = evaluator.figures(opened.state, (args.split,))
  if not figures:
    raise DataError(
      f"--split={args.split} of {args.workdir} is empty; choose another."
    )
  count = len(source.positions[args.split])
  values = _by_prediction(figures, task, count, args.all_peers)
  if args.json:
    about = {"step": opened.step, "split": args.split, "count": count} | {
      prediction(figure.measure, figure.averaged): value
      for figure, value in figures.items()
      if figure.measure == DIVERSITY
    }
    common.print_json(about | {"figures": values})
    return
  title = f"{args.workdir}, step {opened.step}, {args.split} split"
  _show(title, values, task, count)


def _by_prediction(
  figures: Mapping[Figure, float], task: Task, count: int, all_peers: bool
) -> dict[str, dict[str, Any]]:
  """The measures of every single prediction, and what they count."""
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


def _show(
  title: str, values: Mapping[str, dict[str, Any]], task: Task, count: int
) -> None:
  counts = task.headline(task.info).counts
  found = {name for measured in values.values() for name in measured}
  measures = [measure for measure in task.measures if measure.name in found]
  rows = [
    (
      who,
      *([str(measured[counts])] if counts else []),
      *(measure.text(measured[measure.name]) for measure in measures),
    )
    for who, measured in values.items()
  ]
  columns = ["who", *([f"{counts} of {count}"] if counts else [])]
  columns += [measure.title for measure in measures]
  display.table(title, columns, rows)
