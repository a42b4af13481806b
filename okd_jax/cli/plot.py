"""Draw the curves of runs."""

import argparse

from okd_jax.cli import common
from okd_jax.errors import ConfigError


def add_arguments(command: argparse.ArgumentParser) -> None:
  """Adds what the command takes."""
  command.add_argument(
    "workdirs", type=common.place, nargs="+", metavar="WORKDIR"
  )
  common.add_seed(command)
  command.add_argument(
    "--to",
    type=common.place,
    metavar="DIR",
    help="folder for the pictures; plots in WORKDIR by default",
  )


def run(args: argparse.Namespace) -> None:
  """Runs the command.

  Raises:
    ConfigError: if several runs are to be drawn into one folder.
  """
  with common.needing_matplotlib():
    from okd_jax.results import plots
  if args.to and len(args.workdirs) > 1:
    raise ConfigError(
      f"--to={args.to} takes the pictures of one WORKDIR, and there are "
      f"{len(args.workdirs)}; plot them one by one."
    )
  for workdir in args.workdirs:
    if args.seed is not None:
      (workdir,) = common.runs(workdir, args.seed)
    for path in plots.plot(workdir, args.to):
      print(path)
