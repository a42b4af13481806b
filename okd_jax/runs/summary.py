"""The tables before and after a run, and summary.json."""

from collections.abc import Sequence
import json
from pathlib import Path
import statistics
from typing import Any

import jax

from okd_jax import tasks
from okd_jax.backbones import count_multiply_adds, count_parameters
from okd_jax.core import Variables
from okd_jax.data import Source
from okd_jax.devices import mesh as mesh_lib
from okd_jax.runs import display, records as records_lib
from okd_jax.settings import config as config_lib, freeze
from okd_jax.settings.schema import RunConfig
from okd_jax.storage import files
from okd_jax.tasks.figure import (
  DIVERSITY,
  Figure,
  GROUP,
  LEADER,
  of_record as figures_of,
  parse,
)
from okd_jax.tasks.task import Measure
from okd_jax.training.runner import Runner
from okd_jax.training.setup import Setup

_TIMES = ("images_per_second", "compile_seconds")


def show_plan(config: RunConfig, setup: Setup, source: Source) -> None:
  """Prints what is about to be trained."""
  shapes = jax.eval_shape(
    setup.peers.init, jax.random.key(0), setup.example_images()
  )
  leader = range(setup.peers.num_peers)[setup.method.leader]
  net, deployed = _shapes_of_peer(setup, shapes, leader)
  one = count_parameters(deployed["params"])
  adds = count_multiply_adds(net, setup.example_images().shape[1:])
  devices = setup.mesh.devices.flat
  rows = [
    ("method", f"{config.method.name} ({_hyperparameters(config)})"),
    (
      "peers",
      f"{setup.peers.num_peers} {config.peers.kind} of {config.peers.net}",
    ),
    ("parameters of all peers", f"{count_parameters(shapes['params']):,}"),
    ("deployed", f"peer {leader}: {one:,} parameters, {adds:,} multiply-adds"),
    (
      "devices",
      f"{len(setup.mesh.devices.flat)} {devices[0].device_kind}, data x peer "
      f"= {setup.mesh.shape[mesh_lib.DATA]} x "
      f"{setup.mesh.shape[mesh_lib.PEER]}, {config.precision}",
    ),
    (
      "data",
      f"{source.info.name} ({config.data.source}): {source.train_size:,} to "
      f"train, {len(source.positions['validation']):,} to validate, "
      f"{len(source.positions['test']) or 'none'} to test, "
      f"{'x'.join(map(str, source.info.image_shape))}, "
      f"{source.info.num_classes} {setup.task.classes_are}",
    ),
    (
      "schedule",
      f"{config.epochs} epochs, {setup.total_steps:,} steps of "
      f"{config.batch_size}, ramp-up over {config.rampup_epochs} epochs",
    ),
  ]
  rows += [("note", note) for note in source.notes]
  display.table("Plan", ["what", "value"], rows)


def write(
  config: RunConfig, setup: Setup, workdir: Path, runner: Runner
) -> dict[str, Any]:
  """Summarises a finished run from its records.

  Args:
    config: of the run.
    setup: of the run.
    workdir: gets summary.json.
    runner: knows the time taken.

  Returns:
    The content of summary.json: the `last` and the `best` evaluation, by the
    leader's headline on validation data if there are any and on test data
    otherwise, and the loss terms of the last record. The last one counts; the
    best was chosen by looking. Without either, `best_by` is None and both are
    the end of training.
  """
  records = records_lib.read_metrics(workdir)
  evaluations = [r for r in records if r["kind"] == "eval"]
  trained = [r for r in records if r["kind"] == "train"]
  headline = setup.task.headline(setup.task.info)
  judge = next(
    (
      figure.name
      for split in ("validation", "test")
      if (figure := Figure(split, LEADER, False, headline.name)).name
      in evaluations[-1]
    ),
    None,
  )
  best = evaluations[-1]
  if judge is not None:
    best = max(evaluations, key=lambda r: (headline.merit(r[judge]), r["step"]))
  result = {
    "method": config.method.name,
    "net": config.peers.net,
    "kind": config.peers.kind,
    "num_peers": setup.peers.num_peers,
    "data": config.data.name,
    "seed": config.seed,
    "epochs": config.epochs,
    "config_hash": config_lib.digest(config),
    "best_by": judge,
    "last": evaluations[-1],
    "best": best,
    "terms": trained[-1],
  }
  path = workdir / "summary.json"
  if runner.images_per_second:
    result["images_per_second"] = runner.images_per_second
    result["compile_seconds"] = runner.compile_seconds
  else:  # nothing was trained, so nothing was timed
    result |= _timed_before(path, result)
  if jax.process_index() == 0:
    files.write(path, json.dumps(result, indent=2) + "\n")
  return result


def _timed_before(path: Path, result: dict[str, Any]) -> dict[str, Any]:
  """The times in an earlier summary of the same steps."""
  try:
    earlier = json.loads(path.read_text())
    if earlier["last"]["step"] != result["last"]["step"]:
      return {}
    return {name: earlier[name] for name in _TIMES}
  except (OSError, ValueError, LookupError, TypeError):
    return {}  # killed before it was written


def finished(config: RunConfig, workdir: Path) -> dict[str, Any] | None:
  """The summary of a run that is complete; None if there is none.

  Raises:
    ConfigError: if the folder holds a run of another configuration.
  """
  path = workdir / "summary.json"
  if not path.exists():
    return None
  saved = json.loads((workdir / "config.json").read_text())
  # The folder of a comparison may have been moved.
  saved["teacher"] = config.teacher
  config_lib.require_resumable(config, saved)
  if saved["epochs"] != config.epochs:
    return None
  return json.loads(path.read_text())


def show_results(config: RunConfig, results: Sequence[dict[str, Any]]) -> None:
  """Prints the summary of every seed, and mean and deviation over several.

  Args:
    config: of the runs.
    results: the summary of each.
  """
  headline = _headline(config, results[0])
  for result in results:
    _show_result(result, headline)
  if len(results) < 2:
    return
  values: dict[str, list[float]] = {}
  split = _shown_split(results[0])
  if not split:
    return
  for result in results:
    for figure, value in _on(split, result["last"], headline).items():
      shown = values.setdefault(figure.prediction, [])
      shown.append(headline.scaled(value))
  rows = [
    (who, f"{statistics.fmean(shown):.2f} ± {statistics.stdev(shown):.2f}")
    for who, shown in values.items()
  ]
  display.table(
    f"{headline.words.capitalize()} on {split}{headline.unit}, last epoch, "
    f"mean ± sample standard deviation over {len(results)} seeds",
    ["who", headline.words],
    rows,
  )


def _headline(config: RunConfig, result: dict[str, Any]) -> Measure:
  """The figure by which the best evaluation was chosen, or would have been."""
  if result["best_by"] is None:
    return tasks.load(config_lib.make_method(config).task).headline()
  name = parse(result["best_by"]).measure
  known = (m for task in tasks.names() for m in tasks.load(task).measures)
  return next(measure for measure in known if measure.name == name)


def _show_result(result: dict[str, Any], headline: Measure) -> None:
  """Prints the summary of a finished run."""
  last, best = (figures_of(result[when]) for when in ("last", "best"))
  split = _shown_split(result)
  if split != "test":
    print("There are no test data, so nothing is known about new examples.")
  if not split:
    return
  rows: list[tuple[str, ...]] = [
    (figure.prediction, headline.text(value), headline.text(best[figure]))
    for figure, value in _on(split, result["last"], headline).items()
  ]
  diversity = Figure(split, GROUP, False, DIVERSITY)
  rows.append((DIVERSITY, *(f"{r[diversity]:.4f}" for r in (last, best))))
  title = (
    f"{result['method']}, {result['num_peers']} {result['kind']} of "
    f"{result['net']} on {result['data']}, seed {result['seed']}: "
    f"{headline.words} on {split}"
  )
  columns = [
    f"{when} (step {result[when]['step']})" for when in ("last", "best")
  ]
  display.table(title, ["who", *columns], rows)


def _shown_split(result: dict[str, Any]) -> str:
  """Of a finished run: test, or else validation, "" if it was not evaluated."""
  there = {figure.split for figure in figures_of(result["last"])}
  return next((s for s in ("test", "validation") if s in there), "")


def _on(
  split: str, evaluation: dict[str, Any], headline: Measure
) -> dict[Figure, float]:
  """The headlines of everybody on a split."""
  return {
    figure: value
    for figure, value in figures_of(evaluation).items()
    if (figure.split, figure.measure) == (split, headline.name)
  }


def _hyperparameters(config: RunConfig) -> str:
  return ", ".join(
    f"{name}={value}"
    for name, value in freeze.as_dict(config.method).items()
    if name != "name"
  )


def _shapes_of_peer(
  setup: Setup, shapes: Variables, peer: int
) -> tuple[Any, Variables]:
  nets = []

  def extract(variables):
    net, taken = setup.peers.extract(variables, peer)
    nets.append(net)
    return taken

  taken = jax.eval_shape(extract, shapes)
  return nets[0], taken
