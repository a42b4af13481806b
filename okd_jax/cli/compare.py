"""Train methods, networks and seeds by one recipe, and tabulate them."""

import argparse
from collections.abc import Sequence
import sys

import jax

from okd_jax import compare, workers
from okd_jax.cli import common
from okd_jax.devices import distributed
from okd_jax.results import comparison as result_tables, grid
from okd_jax.runs import display
from okd_jax.settings.schema import Comparison
from okd_jax.storage.paths import Path


def add_arguments(command: argparse.ArgumentParser) -> None:
  """Adds what the command takes."""
  command.set_defaults(takes_settings=True)
  command.add_argument(
    "--only",
    default="*",
    metavar="NET/METHOD/SEED",
    help="train these cells and their teachers alone; * is any text",
  )
  command.add_argument(
    "--skip-failed",
    action="store_true",
    help="leave cells alone that failed before",
  )
  command.add_argument(
    "--workers",
    metavar="N",
    help="processes on this machine; auto is one a graphics card or core",
  )
  command.usage = (
    "python -m okd_jax compare --config=configs/compare_c100.py "
    '[--workdir=DIR] [--config.key=value ...] [--grid.key="(1,3,5)" ...] '
    "[--only=NET/METHOD/SEED] [--skip-failed] [--workers=N]"
  )


def run(args: argparse.Namespace) -> None:
  """Runs the command; the program ends with code 1 if a cell failed."""
  config, workdir = common.read_comparison(["compare", *args.settings])
  if args.workers:
    failed = _by_workers(args, config, workdir)
  else:
    common.prepare_jax(config.base)
    distributed.initialize()
    failed = compare.compare(
      config, workdir, only=args.only, skip_failed=args.skip_failed
    )
  for table in result_tables.read(workdir):
    display.table(table.title, table.columns, table.rows)
    for note in table.notes:
      print(note)
  print(f"Results are in {workdir}.")
  if failed:
    sys.exit(1)


def _by_workers(
  args: argparse.Namespace, config: Comparison, workdir: Path
) -> dict[str, str]:
  where = workers.places(args.workers)
  # The cards are for the workers.
  jax.config.update("jax_platforms", "cpu")
  cells = _checked(args, config, workdir)
  return workers.run(cells, _settings(args), workdir, where)


def _checked(
  args: argparse.Namespace, config: Comparison, workdir: Path
) -> list[grid.Cell]:
  """The cells that workers will share; their failures are forgotten."""
  cells = grid.cells(config, workdir)
  grid.check(config, cells)
  cells = grid.only(cells, args.only)
  if not args.skip_failed:
    workers.forget_failures(cells)
  return cells


def _settings(args: argparse.Namespace) -> Sequence[str]:
  return [*args.settings, f"--only={args.only}"]
