"""Arguments that say where something is, or where to write it."""

import argparse
from collections.abc import Callable
import os
import pathlib

from okd_jax.errors import ConfigError
from okd_jax.storage import paths
from okd_jax.storage.paths import Path

# Where the effective rights can differ from those of the user.
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
    folder: whether it names a folder of files; otherwise it names one file.
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
  """Refuses a place that cannot be written to, before the work is done.

  Args:
    to: the place; one that is not on this machine is not checked.
    folder: whether it is a folder of files; otherwise it is one file.
    remedy: what the user can do.

  Raises:
    ConfigError: if it cannot be written to, with the reason.
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
