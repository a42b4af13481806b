"""What the commands share: arguments, exit codes, caches, work directories."""

import argparse
from collections.abc import Iterator, Sequence
import contextlib
import errno
import gc
import io
import logging
import os
import pathlib
import re
import select
import sys
from typing import Any, NoReturn

import jax

from okd_jax.cli import places
from okd_jax.devices import alive, distributed
from okd_jax.errors import CheckpointError, ConfigError, Interrupted, OkdError
from okd_jax.results import grid_flags
from okd_jax.runs import workdir as workdir_lib
from okd_jax.settings import (
  config as config_lib,
  flags,
  freeze,
  layout,
  ranges,
)
from okd_jax.settings.schema import Comparison, RunConfig
from okd_jax.storage import paths, strict_json
from okd_jax.storage.paths import Path

_OF_BASE = re.compile(r"--?config\.base\.([\w.]+)")

_CANNOT_WRITE = (
  *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
  *(errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),
  # A folder that is a mount, or the working directory, cannot be replaced.
  *(errno.EBUSY, errno.EXDEV),
)


def add_workdir(command: argparse.ArgumentParser) -> None:
  """Adds the work directory of a run, or of the runs of several seeds."""
  command.add_argument(
    "workdir",
    type=places.place,
    metavar="WORKDIR",
    help="work directory of a run, or of the runs of several seeds",
  )
  add_seed(command)


def add_seed(command: argparse.ArgumentParser) -> None:
  """Adds the choice of one of several seeds."""
  command.add_argument(
    "--seed",
    type=int,
    metavar="K",
    help="use only the run with this seed, of the runs of several seeds",
  )


def runs(workdir: Path, seed: int | None) -> list[Path]:
  """The work directories of the runs that a command is to use.

  Args:
    workdir: work directory of a run, or of the runs of several seeds.
    seed: which of these runs; None for all.

  Raises:
    ConfigError: if there is no run with that seed.
  """
  found = workdir_lib.runs(workdir)
  if seed is None:
    return list(found.values())
  if seed not in found:
    there = "no runs of several seeds"
    if None not in found:
      there = f"runs of the seeds {', '.join(map(str, found))}"
    raise ConfigError(
      f"--seed={seed}: {workdir} holds {there}; change it, or leave it out."
    )
  return [found[seed]]


def add_json(command: argparse.ArgumentParser) -> None:
  """Adds the flag of commands that can print for programs."""
  command.add_argument("--json", action="store_true", help="print as JSON")


def print_json(content: Any) -> None:
  """Prints JSON for programs, with null for figures that are not finite."""
  print(strict_json.text(content))


def leave(message: object, code: int) -> NoReturn:
  """Prints a message for a person and ends the program."""
  print(f"okd_jax: {message}", file=sys.stderr, flush=True)
  alive.leave(code, message)


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
  """Turns the errors that users can cause into a message and an exit code.

  A program whose output is cut off, for example by `head`, ends silently.
  """
  logging.basicConfig(format="okd_jax: %(message)s", level=logging.WARNING)
  if isinstance(sys.stdout, io.TextIOWrapper):
    # A file's name may contain what a terminal cannot print.
    sys.stdout.reconfigure(errors="backslashreplace")
  try:
    yield
    alive.finish()
  except BrokenPipeError:
    if not _reader_is_gone():
      raise
    alive.leave(1, "nobody reads its output")
  except Interrupted as error:
    print(f"okd_jax: {error}", file=sys.stderr, flush=True)
    alive.finish()
    sys.exit(error.exit_code)
  except OkdError as error:
    leave(error, error.exit_code)
  except OSError as error:
    if error.errno not in _CANNOT_WRITE:
      alive.explain(error)
      raise
    leave(
      f"{error}; free some space, mend the permissions or write elsewhere "
      "(--workdir, --to), then run the command again: the last checkpoint "
      "stands.",
      CheckpointError.exit_code,
    )
  except Exception as error:
    alive.explain(error)
    raise
  finally:
    _flush_output()


def _reader_is_gone() -> bool:
  """Whether standard output is a pipe that is closed at its other end."""
  poll = select.poll()
  poll.register(sys.stdout.fileno(), 0)  # errors are told without being asked
  return any(event & select.POLLERR for _, event in poll.poll(0))


def _flush_output() -> None:
  """Writes what is left, unless nobody reads it."""
  try:
    sys.stdout.flush()
  except BrokenPipeError:
    # What is in the buffer would fail again when Python ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def needing(package: str) -> Iterator[None]:
  """Ends the program with a remedy if an optional package is missing."""
  try:
    yield
  except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != package:
      raise
    leave(f"{error}; pip install {package} adds it.", ConfigError.exit_code)


def read_recipe(argv: Sequence[str], what: str = "") -> tuple[RunConfig, Path]:
  """Reads the flags of a run: --config, --config.KEY and --workdir.

  Args:
    argv: the program's name and its arguments.
    what: text that is added to the name of the default work directory.

  Returns:
    The configuration, and the work directory: a folder under runs/ by default.

  Raises:
    ConfigError: for every mistake in the flags.
  """
  recipe, named, workdir = flags.read(argv)
  if "base" in recipe:
    raise _of_another_command(named)
  config = freeze.freeze(recipe)
  if what:
    named = f"{pathlib.Path(named.split(':')[0]).stem}_{what}"
  return config, _workdir(workdir, config, named)


def read_comparison(argv: Sequence[str]) -> tuple[Comparison, Path]:
  """Reads the flags of a comparison, like `read_recipe` those of a run."""
  argv, values = ranges.take(argv, "grid")
  recipe, named, workdir = flags.read(argv)
  if "base" not in recipe:
    raise _of_another_command(named)
  found = filter(None, map(_OF_BASE.match, argv))
  grid_flags.refuse_set(match[1] for match in found)
  config = grid_flags.ranged(freeze.freeze_comparison(recipe), values)
  return config, _workdir(workdir, config.base, named)


def _workdir(given: str | None, config: RunConfig, named: str) -> Path:
  workdir = paths.anywhere(given) if given else default_workdir(config, named)
  places.require_writable(
    workdir, folder=True, remedy="choose another --workdir"
  )
  return workdir


def _of_another_command(named: str) -> ConfigError:
  return ConfigError(
    f"--config={named} is not a recipe for this command: python -m okd_jax "
    "compare takes configs/compare_*.py, main.py takes the others."
  )


def prepare_jax(config: RunConfig | None = None) -> None:
  """Sets what must be set before JAX uses its first device.

  Args:
    config: configuration of the run that will be trained.
  """
  # Tracing makes many objects and hardly any garbage.
  gc.set_threshold(20_000)
  xla_flags = os.environ.get("XLA_FLAGS", "")
  if config is not None:
    if config.deterministic:
      os.environ["XLA_FLAGS"] = f"{xla_flags} --xla_gpu_deterministic_ops=true"
    if (
      not distributed.expected()
      and "xla_force_host_platform_device_count" not in xla_flags
    ):
      jax.config.update("jax_num_cpu_devices", layout.cpu_devices(config))
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = str(paths.cache("xla"))
    jax.config.update("jax_compilation_cache_dir", cache)


def default_workdir(config: RunConfig, config_file: str) -> Path:
  """A separate folder for every recipe, seed and change to a recipe.

  The folder of a comparison depends on its base, so comparisons that differ
  only in their grids share a folder, and with it their cells.
  """
  stem = pathlib.Path(config_file.split(":")[0]).stem
  return pathlib.Path("runs") / f"{stem}-{config_lib.digest(config)}"
