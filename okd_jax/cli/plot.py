"""Draw the curves of runs, of several in one picture."""

import argparse

from okd_jax.cli import common
from okd_jax.storage.paths import Path


def add_arguments(command: argparse.ArgumentParser) -> None:
  """Adds what the command takes."""
  command.add_argument(
    "workdirs",
    type=common.place,
    nargs="+",
    metavar="WORKDIR",
    help="of a run, of its seeds, or of a comparison; several share pictures",
  )
  common.add_seed(command)
  command.add_argument(
    "--to",
    type=common.place,
    metavar="DIR",
    help="folder for the pictures; by default plots in WORKDIR, or "
    "plots/together in the first of several",
  )


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  with common.needing_matplotlib():
    from okd_jax.results import pictures
  workdirs: list[Path] = args.workdirs
  if args.seed is not None:
    workdirs = [common.runs(each, args.seed)[0] for each in workdirs]
  for path in pictures.draw(workdirs, args.to):
    print(path)
