"""The tables before and after a run, and summary.json."""

from collections.abc import Sequence
import json
from pathlib import Path
import statistics
from typing import Any

import jax

from okd_jax.backbones import count_multiply_adds, count_parameters
from okd_jax.core import Variables
from okd_jax.data import Source
from okd_jax.devices import mesh as mesh_lib
from okd_jax.runs import display, records as logs
from okd_jax.settings import config as config_lib, freeze
from okd_jax.settings.schema import RunConfig
from okd_jax.training.runner import Dispatch
from okd_jax.training.setup import Recipe

_TIMES = ("images_per_second", "compile_seconds")


def show_plan(config: RunConfig, recipe: Recipe, source: Source) -> None:
  """Prints what is about to be trained."""
  shapes = jax.eval_shape(
    recipe.peers.init, jax.random.key(0), recipe.example_images()
  )
  leader = range(recipe.peers.num_peers)[recipe.method.leader]
  net, deployed = _shapes_of_peer(recipe, shapes, leader)
  one = count_parameters(deployed["params"])
  adds = count_multiply_adds(net, recipe.info.image_shape)
  devices = recipe.mesh.devices.flat
  rows = [
    ("method", f"{config.method.name} ({_hyperparameters(config)})"),
    (
      "peers",
      f"{recipe.peers.num_peers} {config.peers.kind} of {config.peers.net}",
    ),
    ("parameters of all peers", f"{count_parameters(shapes['params']):,}"),
    ("deployed", f"peer {leader}: {one:,} parameters, {adds:,} multiply-adds"),
    (
      "devices",
      f"{len(recipe.mesh.devices.flat)} {devices[0].device_kind}, data x peer "
      f"= {recipe.mesh.shape[mesh_lib.DATA]} x "
      f"{recipe.mesh.shape[mesh_lib.PEER]}, {config.precision}",
    ),
    (
      "data",
      f"{source.info.name} ({config.data.source}): {source.train_size:,} to "
      f"train, {len(source.positions['validation']):,} to validate, "
      f"{len(source.positions['test']):,} to test, "
      f"{'x'.join(map(str, source.info.image_shape))}, "
      f"{source.info.num_classes} classes",
    ),
    (
      "schedule",
      f"{config.epochs} epochs, {recipe.total_steps:,} steps of "
      f"{config.batch_size}, ramp-up over {config.rampup_epochs} epochs",
    ),
  ]
  display.table("Plan", ["what", "value"], rows)


def conclude(
  config: RunConfig, recipe: Recipe, workdir: Path, dispatch: Dispatch
) -> dict[str, Any]:
  """Summarises a finished run from its records.

  Args:
    config: of the run.
    recipe: of the run.
    workdir: gets summary.json.
    dispatch: knows the time taken.

  Returns:
    The content of summary.json: the `last` and the `best` evaluation, by the
    accuracy of the leader on validation data if there are any and on test data
    otherwise, and the loss terms of the last record. The last one counts; the
    best was chosen by looking.
  """
  records = logs.read_metrics(workdir)
  evaluations = [r for r in records if r["kind"] == "eval"]
  trained = [r for r in records if r["kind"] == "train"]
  judge = next(
    name
    for name in ("validation/leader/accuracy", "test/leader/accuracy")
    if name in evaluations[-1]
  )
  best = max(evaluations, key=lambda r: (r[judge], r["step"]))
  result = {
    "method": config.method.name,
    "net": config.peers.net,
    "kind": config.peers.kind,
    "num_peers": recipe.peers.num_peers,
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
  if dispatch.images_per_second:
    result["images_per_second"] = dispatch.images_per_second
    result["compile_seconds"] = dispatch.compile_seconds
  else:  # nothing was trained, so nothing was timed
    result |= _timed_before(path, result)
  if jax.process_index() == 0:
    logs.replace_file(path, json.dumps(result, indent=2) + "\n")
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


def show_results(results: Sequence[dict[str, Any]]) -> None:
  """Prints the summary of every seed, and mean and deviation over several."""
  for result in results:
    show_result(result)
  if len(results) < 2:
    return
  rows = []
  for name in _judged(results[0]["last"]):
    values = [100 * r["last"][f"test/{name}/accuracy"] for r in results]
    spread = f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"
    rows.append((name, spread))
  display.table(
    f"Accuracy on test in %, last epoch, mean ± sample standard deviation over "
    f"{len(results)} seeds",
    ["who", "accuracy"],
    rows,
  )


def show_result(result: dict[str, Any]) -> None:
  """Prints the summary of a finished run."""
  last, best = result["last"], result["best"]
  rows = [
    (name, *(f"{100 * r[f'test/{name}/accuracy']:.2f} %" for r in (last, best)))
    for name in _judged(last)
  ]
  rows.append(
    ("diversity", *(f"{r['test/diversity']:.4f}" for r in (last, best)))
  )
  title = (
    f"{result['method']}, {result['num_peers']} {result['kind']} of "
    f"{result['net']} on {result['data']}, seed {result['seed']}: accuracy on "
    "test"
  )
  display.table(
    title,
    ["who", f"last (step {last['step']})", f"best (step {best['step']})"],
    rows,
  )


def _judged(evaluation: dict[str, Any]) -> list[str]:
  """Whose accuracy on test an evaluation holds."""
  return [
    name.removeprefix("test/").removesuffix("/accuracy")
    for name in evaluation
    if name.startswith("test/") and name.endswith("/accuracy")
  ]


def _hyperparameters(config: RunConfig) -> str:
  return ", ".join(
    f"{name}={value}"
    for name, value in freeze.as_dict(config.method).items()
    if name != "name"
  )


def _shapes_of_peer(
  recipe: Recipe, shapes: Variables, peer: int
) -> tuple[Any, Variables]:
  nets = []

  def extract(variables):
    net, taken = recipe.peers.extract(variables, peer)
    nets.append(net)
    return taken

  taken = jax.eval_shape(extract, shapes)
  return nets[0], taken
