"""Ask a run's leader or an exported network about images."""

import argparse
from pathlib import Path

from okd_jax.cli import common
from okd_jax.runs import display
from okd_jax.weights import predict


def add_arguments(command: argparse.ArgumentParser) -> None:
  """Adds what the command takes."""
  command.add_argument(
    "target", type=Path, metavar="WORKDIR|LEADER", help="run or exported folder"
  )
  command.add_argument(
    "images", type=Path, nargs="+", metavar="IMAGE", help="files or folders"
  )
  common.add_json(command)


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  results = predict.predict(args.target, args.images)
  if args.json:
    common.print_json(results)
    return
  answer_cells = predict.task_of(args.target).answer_cells
  rows = [
    (result["image"], *answer_cells(result["predictions"]))
    for result in results
  ]
  display.table(
    f"Predictions of {args.target}",
    ["image", *map(str, range(1, len(rows[0])))],
    rows,
  )
