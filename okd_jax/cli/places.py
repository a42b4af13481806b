"""Arguments that say where something is, or where it shall be written."""

import argparse
from collections.abc import Callable
import os
import pathlib

from okd_jax.errors import ConfigError
from okd_jax.storage import paths
from okd_jax.storage.paths import Path

# Where the rights in force can differ from those of who began the program.
_EFFECTIVE = os.access in os.supports_effective_ids


def path(text: str) -> pathlib.Path:
  """The type of arguments that are paths; see `okd_jax.storage.paths`."""
  try:
    return paths.expand(text)
  except ConfigError as error:
    raise argparse.ArgumentTypeError(str(error)) from error


def place(text: str) -> Path:
  """The type of arguments that are paths, also in a bucket."""
  try:
    return paths.anywhere(text)
  except ConfigError as error:
    raise argparse.ArgumentTypeError(str(error)) from error


def to_write(
  kind: Callable[[str], Path], *, folder: bool
) -> Callable[[str], Path]:
  """The type of arguments that say where to write.

  Args:
    kind: `path` or `place`.
    folder: whether it is for a folder of files; for one file otherwise.
  """

  def where(text: str) -> Path:
    to = kind(text)
    try:
      require_writable(to, folder=folder, remedy="choose another place")
    except ConfigError as error:
      raise argparse.ArgumentTypeError(str(error)) from error
    return to

  return where


def require_writable(
  to: Path, *, folder: bool, remedy: str = "write elsewhere by --to"
) -> None:
  """Refuses a place that cannot be written, before there is something to write.

  Args:
    to: the place; one that is not on this machine is not looked at.
    folder: whether it is for a folder of files; for one file otherwise.
    remedy: what the user may do.

  Raises:
    ConfigError: saying why.
  """
  if not isinstance(to, pathlib.Path):
    return
  above = to if folder else to.parent
  there = next(p for p in (above, *above.parents) if os.path.lexists(p))
  why = ""
  if not os.path.isdir(there):
    why = f"{there} is no folder"
  elif not folder and os.path.exists(to) and not os.path.isfile(to):
    why = "it is there and is no file"
  elif not os.access(there, os.W_OK | os.X_OK, effective_ids=_EFFECTIVE):
    why = f"{there} is read-only"
  else:
    try:
      to.lstat()
    except FileNotFoundError:
      pass
    except OSError as error:
      why = os.strerror(error.errno or 0)
  if why:
    raise ConfigError(f"{to} cannot be written: {why}; {remedy}.")
