"""Train methods, networks and seeds with one recipe, and compare them."""

import argparse
from collections.abc import Mapping
import sys

import jax

from okd_jax import compare, workers
from okd_jax.cli import common
from okd_jax.devices import distributed
from okd_jax.errors import ConfigError
from okd_jax.results import comparison as result_tables, grid
from okd_jax.runs import display
from okd_jax.settings import flags, ranges
from okd_jax.settings.schema import Comparison
from okd_jax.storage import paths
from okd_jax.storage.paths import Path


def add_arguments(command: argparse.ArgumentParser) -> None:
  """Adds the arguments of the command."""
  command.set_defaults(takes_settings=True)
  command.add_argument(
    "--only",
    default="*",
    metavar="NET/METHOD/SEED",
    help="train only these cells and their teachers; * stands for any text",
  )
  command.add_argument(
    "--skip-failed",
    action="store_true",
    help="do not try cells again that failed before",
  )
  command.add_argument(
    "--workers",
    metavar="N",
    help="number of processes on this machine; auto starts one for each GPU",
  )
  command.add_argument(
    "--submit",
    choices=["slurm"],
    help="train the cells on a cluster, at most N tasks (--workers) at once",
  )
  command.add_argument(
    "--dry-run", action="store_true", help="print what would be submitted"
  )
  command.usage = (
    "python -m okd_jax compare --config=configs/compare_c100.py "
    '[--workdir=DIR] [--config.key=value ...] [--grid.key="(1,3,5)" ...] '
    "[--only=NET/METHOD/SEED] [--skip-failed] [--workers=N] "
    "[--submit=slurm [--slurm.partition=NAME ...] [--dry-run]]"
  )


def run(args: argparse.Namespace) -> None:
  """Runs the command; the program ends with code 1 if a cell failed."""
  args.settings, options = ranges.take(args.settings, "slurm")
  if (options or args.dry_run) and not args.submit:
    raise ConfigError("--slurm.KEY and --dry-run are for --submit=slurm.")
  config, workdir = common.read_comparison(["compare", *args.settings])
  if args.submit:
    _submit(args, options, config, workdir)
    return
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
  """Trains on this machine, in several processes."""
  where = workers.places(args.workers, config.base)
  cells = _checked(args, config, workdir)
  if not args.skip_failed:
    workers.forget_failures(cells)
  return workers.run(cells, _command(args, workdir), workdir, where)


def _submit(
  args: argparse.Namespace,
  options: Mapping[str, str],
  config: Comparison,
  workdir: Path,
) -> None:
  """Leaves the training to a cluster."""
  with common.needing("submitit"):
    from okd_jax import slurm
  if not (args.workers or "").isdecimal() or not int(args.workers):
    raise ConfigError(
      f"--workers={args.workers} must be the number of tasks that run at once."
    )
  cells = _checked(args, config, workdir)
  left = workers.unfinished(cells)
  if not left:
    print("Nothing is left to train.")
    return
  folder = workers.folder(workdir, "slurm").absolute()
  array = slurm.Array(
    _command(args, workdir), len(left), int(args.workers), folder, options
  )
  if args.dry_run:
    print(array.text())
    return
  if not args.skip_failed:
    workers.forget_failures(cells)
  number = array.submit()
  print(f"Submitted {len(left)} tasks as array {number}; logs are in {folder}.")


def _checked(
  args: argparse.Namespace, config: Comparison, workdir: Path
) -> list[grid.Cell]:
  """The cells that workers will share."""
  # GPUs are for the workers.
  jax.config.update("jax_platforms", "cpu")
  cells = grid.cells(config, workdir)
  grid.check(config, cells)
  return grid.only(cells, args.only)


def _command(args: argparse.Namespace, workdir: Path) -> list[str]:
  """What starts a worker."""
  settings = flags.without_workdir(args.settings)
  place = f"--workdir={paths.absolute(workdir)}"
  only = f"--only={args.only}"
  return [*workers.PROGRAM, *settings, only, place, "--skip-failed"]
