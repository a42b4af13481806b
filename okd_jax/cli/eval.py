"""Evaluate a run: all figures of its task."""

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import jax

from okd_jax.cli import common
from okd_jax.devices import mesh as mesh_lib
from okd_jax.errors import DataError
from okd_jax.runs import display, run as run_lib, spread
from okd_jax.settings import build, freeze
from okd_jax.storage.paths import Path
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
  command.add_argument(
    "--data",
    type=common.path,
    metavar="PATH",
    help="where the data of the run are now, if they have moved",
  )
  common.add_json(command)


@dataclasses.dataclass(frozen=True)
class _Evaluated:
  """What was found of one run.

  Attributes:
    workdir: of the run.
    step: of its state.
    task: of the run.
    count: number of examples.
    distances: how far the peers are apart, by name.
    values: the measures of every prediction.
  """

  workdir: Path
  step: int
  task: Task
  count: int
  distances: dict[str, float]
  values: dict[str, dict[str, Any]]


def run(args: argparse.Namespace) -> None:
  """Runs the command.

  Raises:
    DataError: if the split is empty.
  """
  workdirs = common.runs(args.workdir, args.seed)
  found = [_evaluate(workdir, args) for workdir in workdirs]
  if len(found) > 1:
    _report_several(args, found)
    return
  (only,) = found
  if args.json:
    about = {"step": only.step, "split": args.split, "count": only.count}
    common.print_json(about | only.distances | {"figures": only.values})
    return
  title = f"{only.workdir}, step {only.step}, {args.split} split"
  _show(title, only.values, only.task, only.count)


def _evaluate(workdir: Path, args: argparse.Namespace) -> _Evaluated:
  config = run_lib.about(workdir)[0]
  devices = len(jax.devices())
  parts = devices if config.eval_batch_size % devices == 0 else 1
  mesh = mesh_lib.make_mesh(parts, 1)
  opened = run_lib.run(workdir, mesh)
  # Any size that the devices divide; nothing is trained.
  config = dataclasses.replace(config, batch_size=parts)
  if args.data:
    config = freeze.replace(config, {"data.dir": str(args.data)})
  source = build.source(config, mesh)
  run_lib.require_same_data(workdir, source)
  figures = Evaluator(opened.setup, source).figures(opened.state, (args.split,))
  if not figures:
    raise DataError(
      f"--split={args.split} of {workdir} is empty; choose another."
    )
  task, count = opened.setup.task, len(source.positions[args.split])
  distances = {
    prediction(figure.measure, figure.averaged): value
    for figure, value in figures.items()
    if figure.measure == DIVERSITY
  }
  values = _by_prediction(figures, task, count, args.all_peers)
  return _Evaluated(workdir, opened.step, task, count, distances, values)


def _report_several(
  args: argparse.Namespace, found: Sequence[_Evaluated]
) -> None:
  """Reports the runs of several seeds, and their mean and deviation."""
  first = found[0]
  spreads = {
    who: spread.over([each.values[who] for each in found])
    for who in first.values
  }
  if args.json:
    runs = {
      each.workdir.name: {"step": each.step}
      | each.distances
      | {"figures": each.values}
      for each in found
    }
    about = {"split": args.split, "count": first.count, "figures": spreads}
    common.print_json(about | {"runs": runs})
    return
  measures = first.task.measures
  display.table(
    f"{args.workdir}, {args.split} split, mean ± sample standard deviation "
    f"over {len(found)} seeds",
    ["who", *(measure.title for measure in measures)],
    [
      (
        who,
        *(measure.spread(**spreads[who][measure.name]) for measure in measures),
      )
      for who in spreads
    ],
  )


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
