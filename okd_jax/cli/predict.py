"""Ask a run's leader or an exported network about images."""

import argparse
from pathlib import Path

from okd_jax.cli import common
from okd_jax.errors import DataError
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
  """Runs the command.

  Raises:
    DataError: naming the files that cannot be read, after the others.
  """
  results = predict.predict(args.target, args.images)
  bad = [result["error"] for result in results if "error" in result]
  if args.json:
    common.print_json(results)
  elif len(bad) < len(results):
    answer_cells = predict.task_of(args.target).answer_cells
    rows = [
      (result["image"], *answer_cells(result["predictions"]))
      for result in results
      if "predictions" in result
    ]
    display.table(
      f"Predictions of {args.target}",
      ["image", *map(str, range(1, len(rows[0])))],
      rows,
    )
  if bad:
    listed = "\n  ".join(bad)
    raise DataError(
      f"{len(bad)} of {len(results)} files gave none:\n  {listed}"
    )
