"""Write one HTML page about runs and comparisons."""

import argparse

from okd_jax.cli import common, places


def add_arguments(command: argparse.ArgumentParser) -> None:
  """Adds the arguments of the command."""
  command.add_argument(
    "workdirs", type=places.place, nargs="+", metavar="WORKDIR"
  )
  common.add_seed(command)
  command.add_argument(
    "--to",
    type=places.to_write(places.place, folder=False),
    help="file to write; by default report.html in the first WORKDIR",
  )


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  with common.needing("matplotlib"):
    from okd_jax.results import report
  workdirs = args.workdirs
  if args.seed is not None:
    workdirs = [common.runs(each, args.seed)[0] for each in workdirs]
  to = args.to or workdirs[0] / "report.html"
  places.require_writable(to, folder=False)
  report.write(workdirs, to)
  print(to)
