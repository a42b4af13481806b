"""Draw the curves of runs and their leaders' predictions for a few examples."""

import argparse
import sys

from okd_jax.cli import common, places
from okd_jax.errors import CheckpointError, DataError
from okd_jax.storage.paths import Path


def add_arguments(command: argparse.ArgumentParser) -> None:
  """Adds the arguments of the command."""
  command.add_argument(
    "workdirs",
    type=places.place,
    nargs="+",
    metavar="WORKDIR",
    help="work directory of a run, of the runs of several seeds, or of a "
    "comparison; several are drawn into common pictures",
  )
  common.add_seed(command)
  command.add_argument(
    "--to",
    type=places.to_write(places.place, folder=True),
    metavar="DIR",
    help="folder for the pictures; by default plots in WORKDIR, or "
    "plots/together in the first WORKDIR if there are several",
  )


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  with common.needing("matplotlib"):
    from okd_jax.results import examples, pictures, rows
  workdirs: list[Path] = args.workdirs
  if args.seed is not None:
    workdirs = [common.runs(each, args.seed)[0] for each in workdirs]
  places.require_writable(args.to or workdirs[0], folder=True)
  for path in pictures.draw(workdirs, args.to):
    print(path)
  (first, *others) = workdirs
  if others or rows.exists(first):
    return
  try:
    for path in examples.draw(first, args.to):
      print(path)
  except (CheckpointError, DataError) as error:
    # Curves need neither a state nor the data.
    print(f"No examples are drawn: {error}", file=sys.stderr)
