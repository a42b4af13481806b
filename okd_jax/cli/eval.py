"""Evaluate a run by all figures of its task."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import logging
import os
import sys
from typing import Any

import jax

from okd_jax import tasks
from okd_jax.cli import common, places
from okd_jax.devices import mesh as mesh_lib
from okd_jax.errors import ConfigError, DataError
from okd_jax.results import closer as closer_lib
from okd_jax.results.closer import Closer
from okd_jax.runs import display, run as run_lib, spread
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
from okd_jax.tasks.measure import Measure
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


@dataclasses.dataclass(frozen=True)
class _Evaluated:
  """The results of one run.

  Attributes:
    workdir: work directory of the run.
    step: step of the evaluated state.
    task: task of the run.
    count: number of examples.
    distances: diversity of the peers, by name.
    values: the measures of every prediction.
    first: measures of the ensemble of the first k members, k = 1 first; empty
      for one network.
    closer: the results of each class, if they were requested.
  """

  workdir: Path
  step: int
  task: Task
  count: int
  distances: dict[str, float]
  values: dict[str, dict[str, Any]]
  first: list[dict[str, float]]
  closer: Closer | None

  @property
  def as_json(self) -> dict[str, Any]:
    found = {"step": self.step} | self.distances | {"figures": self.values}
    if self.first:
      found["ensemble_of_first"] = {
        str(k): figures for k, figures in enumerate(self.first, 1)
      }
    return found | ({"per_class": self.closer.as_json()} if self.closer else {})


def run(args: argparse.Namespace) -> None:
  """Runs the command.

  Raises:
    DataError: if the split is empty.
    ConfigError: if the files of several runs would go to the same folder.
  """
  workdirs = common.runs(args.workdir, args.seed)
  if args.to and len(workdirs) > 1:
    raise ConfigError(
      f"--to={args.to} takes the files of one run, and {args.workdir} has "
      f"{len(workdirs)}; choose one by --seed."
    )
  found = [_evaluate(workdir, args) for workdir in workdirs]
  if len(found) > 1:
    _report_several(args, found)
    return
  (only,) = found
  if args.json:
    about = {"split": args.split, "count": only.count}
    common.print_json(about | only.as_json)
    return
  title = f"{only.workdir}, step {only.step}, {args.split} split"
  _show(title, only.values, only.task, only.count)
  _show_extra([only])


def _evaluate(workdir: Path, args: argparse.Namespace) -> _Evaluated:
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
  return _Evaluated(
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


def _report_several(
  args: argparse.Namespace, found: Sequence[_Evaluated]
) -> None:
  """Reports the runs of several seeds, and their mean and deviation."""
  first = found[0]
  if len({each.step for each in found}) > 1:
    _log.warning(
      "These are means over different steps: %s.",
      ", ".join(f"{each.workdir.name} at {each.step}" for each in found),
    )
  spreads = {
    who: spread.over([each.values[who] for each in found])
    for who in first.values
  }
  if args.json:
    runs = {each.workdir.name: each.as_json for each in found}
    about = {"split": args.split, "count": first.count, "figures": spreads}
    common.print_json(about | {"runs": runs})
    return
  measures = _measured(first.task, spreads.values())
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
  _show_extra(found)


def _show_extra(found: Sequence[_Evaluated]) -> None:
  """Shows the first k of all runs together, and the classes of each run."""

  def text(measure: Measure, value: Mapping[str, float]) -> str:
    several = len(found) > 1
    return measure.spread(**value) if several else measure.text(value["mean"])

  firsts = zip(*(each.first for each in found), strict=True)
  if spreads := [spread.over(first) for first in firsts]:
    shown = _measured(found[0].task, spreads)
    display.table(
      "Ensemble of the first k members",
      ["k", *(m.title for m in shown)],
      [
        [str(k), *(text(m, values[m.name]) for m in shown)]
        for k, values in enumerate(spreads, 1)
      ],
    )
  for closer in (each.closer for each in found if each.closer):
    for table in closer.tables():
      display.table(table.title, table.columns, table.rows)
      for note in table.notes:
        print(note)


def _measured(task: Task, values: Iterable[Mapping[str, Any]]) -> list[Measure]:
  """The measures of a task that the data allow."""
  found = {name for measured in values for name in measured}
  return [measure for measure in task.measures if measure.name in found]


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


def _show(
  title: str, values: Mapping[str, dict[str, Any]], task: Task, count: int
) -> None:
  counts = task.headline(task.info).counts
  measures = _measured(task, values.values())
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
