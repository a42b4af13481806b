"""Export the leader, another network or the ensemble of a run."""

import argparse

from okd_jax.cli import common, places
from okd_jax.runs import run as run_lib
from okd_jax.weights import export


def add_arguments(command: argparse.ArgumentParser) -> None:
  """Adds the arguments of the command."""
  common.add_workdir(command)
  command.add_argument(
    "--what",
    default="leader",
    help="what to export: leader (default), peer_0, peer_1, ..., ensemble, or "
    "a group prediction of the method, by its name in an evaluation",
  )
  command.add_argument(
    "--to",
    type=places.to_write(places.place, folder=True),
    help="folder to write, with a folder for each seed if there are several; "
    "by default a folder in WORKDIR that is named after --what",
  )
  command.add_argument(
    "--format",
    choices=("stablehlo", "savedmodel"),
    default="stablehlo",
    help="stablehlo for JAX (default), or savedmodel for TensorFlow; for ONNX "
    "run scripts/export_onnx.py on the exported folder",
  )


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  name = args.what.replace("/", "_")
  folder = name if args.format == "stablehlo" else f"{name}_{args.format}"
  workdirs = common.runs(args.workdir, args.seed)
  for workdir in workdirs:
    to = args.to or workdir / folder
    if args.to and len(workdirs) > 1:
      to = args.to / workdir.name
    places.require_writable(to, folder=True)
    opened = run_lib.run(workdir)
    export.export(opened, to, args.what, args.format)
    print(f"{args.what} of step {opened.step} is in {to}.")
