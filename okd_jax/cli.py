"""What the commands share: exit codes, the compilation cache, work folders."""

from collections.abc import Iterator
import contextlib
import logging
import os
from pathlib import Path
import sys
from typing import NoReturn

import jax
from ml_collections import ConfigDict

from okd_jax import config as config_lib, signals
from okd_jax.checkpoint import CheckpointError
from okd_jax.data import DataError
from okd_jax.leader import LeaderError
from okd_jax.lock import RunLockError
from okd_jax.train import Interrupted, NotFiniteError

BAD_CONFIG = 2
BAD_DATA = 3
NOT_FINITE = 4
BAD_CHECKPOINT = 5
IN_USE = 6


def leave(message: object, code: int) -> NoReturn:
  """Prints a message for a person and ends the program."""
  print(f"okd_jax: {message}", file=sys.stderr, flush=True)
  sys.exit(code)


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
  """Turns what can go wrong for a user into a message and an exit code."""
  logging.basicConfig(format="okd_jax: %(message)s", level=logging.WARNING)
  try:
    yield
  except DataError as error:
    leave(error, BAD_DATA)
  except NotFiniteError as error:
    leave(error, NOT_FINITE)
  except (CheckpointError, LeaderError) as error:
    leave(error, BAD_CHECKPOINT)
  except RunLockError as error:
    leave(error, IN_USE)
  except Interrupted as error:
    leave(error, signals.EXIT_CODE)
  except config_lib.ConfigError as error:
    leave(error, BAD_CONFIG)


def prepare_jax(*, deterministic: bool = False) -> None:
  """Sets what must be set before the first device is touched.

  Args:
    deterministic: make GPU programs give the same numbers every time.
  """
  if deterministic:
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true"
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = Path.home() / ".cache" / "okd_jax" / "xla"
    jax.config.update("jax_compilation_cache_dir", str(cache))


def default_workdir(config: ConfigDict, config_file: str) -> Path:
  """A folder of its own for every recipe, seed and change to a recipe."""
  stem = Path(config_file.split(":")[0]).stem
  return Path("runs") / f"{stem}-{config_lib.digest(config)}"
