"""What the commands share: exit codes, the compilation cache, work folders."""

from collections.abc import Iterator, Sequence
import contextlib
import errno
import logging
import os
from pathlib import Path
import sys
from typing import NoReturn

from absl import flags
import jax
from ml_collections import config_flags, ConfigDict

from okd_jax.devices import distributed, processes
from okd_jax.errors import CheckpointError, ConfigError, OkdError
from okd_jax.settings import config as config_lib, flag_errors, layout

_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


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
  except OkdError as error:
    if isinstance(error, CheckpointError) and jax.process_count() > 1:
      # A save of this process may wait for one that has failed elsewhere.
      print(f"okd_jax: {error}", file=sys.stderr, flush=True)
      processes.leave(error.exit_code)
    leave(error, error.exit_code)
  except OSError as error:
    if error.errno not in _CANNOT_WRITE:
      raise
    leave(
      f"{error}; free some space or mend the permissions, then run the same "
      "command again: the last checkpoint stands.",
      CheckpointError.exit_code,
    )


def read_recipe(
  argv: Sequence[str], *, comparison: bool = False
) -> tuple[ConfigDict, Path]:
  """Reads the flags --config, --config.KEY and --workdir.

  Args:
    argv: the program's name and its arguments.
    comparison: whether the recipe must be one of a comparison or of a run.

  Returns:
    The configuration, and the work directory: a folder under runs/ by default.

  Raises:
    ConfigError: for every mistake in them.
  """
  known = flags.FlagValues()
  recipe = config_flags.DEFINE_config_file(
    "config",
    None,
    "A recipe, such as configs/okddip_c100.py.",
    flag_values=known,
    lock_config=True,
    sys_argv=list(argv),
  )
  flags.DEFINE_string("workdir", None, "Where results go.", flag_values=known)
  try:
    rest = known(list(argv))
    missing = recipe.value is None
    if not missing:
      recipe.value.to_dict()  # raises if the recipe was not found
  except Exception as error:  # a recipe is Python and may raise anything
    raise flag_errors.explain(error) from error
  if rest[1:]:
    raise ConfigError(
      f"unexpected argument '{rest[1]}'; settings are given as "
      "--config.key=value."
    )
  if missing:
    raise ConfigError(
      "--config is missing; name a recipe, for example "
      "--config=configs/okddip_digits.py."
    )
  named = config_flags.get_config_filename(known["config"])
  if comparison != ("base" in recipe.value):
    raise ConfigError(
      f"--config={named} is not a recipe for this command: python -m okd_jax "
      "compare takes configs/compare_*.py, main.py takes the others."
    )
  workdir = known["workdir"].value or default_workdir(recipe.value, named)
  return recipe.value, Path(workdir)


def prepare_jax(config: ConfigDict | None = None) -> None:
  """Sets what must be set before the first device is touched.

  Args:
    config: of the run that will be trained.
  """
  flags = os.environ.get("XLA_FLAGS", "")
  if config is not None:
    if config.deterministic:
      os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true"
    if (
      not distributed.expected()
      and "xla_force_host_platform_device_count" not in flags
    ):
      jax.config.update("jax_num_cpu_devices", layout.cpu_devices(config))
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = Path.home() / ".cache" / "okd_jax" / "xla"
    jax.config.update("jax_compilation_cache_dir", str(cache))


def default_workdir(config: ConfigDict, config_file: str) -> Path:
  """A folder of its own for every recipe, seed and change to a recipe.

  Comparisons that differ in their grids alone share one, and so their cells.
  """
  stem = Path(config_file.split(":")[0]).stem
  about = config.base if "base" in config else config
  return Path("runs") / f"{stem}-{config_lib.digest(about)}"
