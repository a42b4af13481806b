"""Train methods, networks and seeds by one recipe, and tabulate them."""

import argparse
import sys

from okd_jax import compare
from okd_jax.cli import common
from okd_jax.devices import distributed
from okd_jax.results import comparison as result_tables
from okd_jax.runs import display


def add_arguments(command: argparse.ArgumentParser) -> None:
  """Adds what the command takes."""
  command.set_defaults(takes_settings=True)
  command.usage = (
    "python -m okd_jax compare --config=configs/compare_c100.py "
    '[--workdir=DIR] [--config.key=value ...] [--grid.key="(1,3,5)" ...]'
  )


def run(args: argparse.Namespace) -> None:
  """Runs the command; the program ends with code 1 if a cell failed."""
  config, workdir = common.read_comparison(["compare", *args.settings])
  common.prepare_jax(config.base)
  distributed.initialize()
  failed = compare.compare(config, workdir)
  for table in result_tables.read(workdir):
    display.table(table.title, table.columns, table.rows)
    for note in table.notes:
      print(note)
  print(f"Results are in {workdir}.")
  if failed:
    sys.exit(1)
