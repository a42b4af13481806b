"""Ask a run's leader or an exported network about images."""

import argparse
from collections.abc import Sequence
from typing import Any

from okd_jax.cli import common
from okd_jax.errors import DataError
from okd_jax.runs import display
from okd_jax.storage.paths import Path
from okd_jax.weights import exported, predict


def add_arguments(command: argparse.ArgumentParser) -> None:
  """Adds what the command takes."""
  command.add_argument(
    "target",
    type=common.place,
    metavar="WORKDIR|LEADER",
    help="run, runs of several seeds, or exported folder",
  )
  command.add_argument(
    "images",
    type=common.path,
    nargs="+",
    metavar="IMAGE",
    help="files or folders",
  )
  common.add_seed(command)
  common.add_json(command)


def run(args: argparse.Namespace) -> None:
  """Runs the command.

  Raises:
    DataError: naming the files that cannot be read, after the others.
  """
  target: Path = args.target
  targets = [target]
  if args.seed is not None or not (target / exported.CARD).exists():
    targets = common.runs(target, args.seed)
  results = [predict.predict(each, args.images) for each in targets]
  if args.json:
    by_name = {
      each.name: result for each, result in zip(targets, results, strict=True)
    }
    common.print_json(results[0] if len(targets) == 1 else by_name)
  else:
    for each, result in zip(targets, results, strict=True):
      _show(each, result)
  bad = [result["error"] for result in results[0] if "error" in result]
  if bad:
    listed = "\n  ".join(bad)
    raise DataError(
      f"{len(bad)} of {len(results[0])} files gave none:\n  {listed}"
    )


def _show(target: Path, results: Sequence[dict[str, Any]]) -> None:
  answer_cells = predict.task_of(target).answer_cells
  rows = [
    (result["image"], *answer_cells(result["predictions"]))
    for result in results
    if "predictions" in result
  ]
  if rows:
    display.table(
      f"Predictions of {target}",
      ["image", *map(str, range(1, len(rows[0])))],
      rows,
    )
