"""Draw the curves of runs."""

import argparse
from pathlib import Path

from okd_jax.cli import common


def add_arguments(command: argparse.ArgumentParser) -> None:
  """Adds what the command takes."""
  command.add_argument("workdirs", type=Path, nargs="+", metavar="WORKDIR")


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  with common.needing_matplotlib():
    from okd_jax.results import plots
  for workdir in args.workdirs:
    for path in plots.plot(workdir):
      print(path)
