"""Paths as users write them: on this machine, or in a bucket."""

import os
import pathlib
import re
import tempfile
from typing import TYPE_CHECKING, TypeAlias

from okd_jax.errors import ConfigError

# Of the methods only those are called that both have; `files` has the rest.
if TYPE_CHECKING:
  from etils import epath

  Path: TypeAlias = pathlib.Path | epath.Path
else:
  Path = pathlib.Path

# Read once by epath, when the first path is used: it would reach buckets by
# TensorFlow where that is installed, which takes seconds and is another way.
os.environ.setdefault("EPATH_USE_TF", "false")

_VARIABLE = re.compile(r"\$([A-Za-z_]\w*|\{[^}]*\})", re.ASCII)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
# Orbax looks for files by patterns that begin with the path.
_IN_A_BUCKET = re.compile(r"[\w-][\w.-]*(/[\w ./=,+@:~%-]*)?", re.ASCII)


def expand(text: str | os.PathLike[str]) -> pathlib.Path:
  """Replaces ~ and $VARIABLES as a shell does.

  A shell does not replace them everywhere, for example not after `--workdir=`,
  and recipes are not read by a shell.

  Args:
    text: a path on this machine. If it exists as written, nothing is replaced.

  Raises:
    ConfigError: naming a variable or a user that does not exist, or a bucket.
  """
  written = os.fspath(text)
  if not written.startswith("~") and os.path.lexists(written):
    return pathlib.Path(written)
  expanded = os.path.expanduser(_with_variables(written))
  if written.startswith("~") and expanded.startswith("~"):
    raise ConfigError(
      f"the path {written!r} begins with the home of a user who is not known; "
      "write ./~ for a file that is called so."
    )
  if _SCHEME.fullmatch(expanded):
    raise ConfigError(
      f"{written!r} must be on this machine, as it is not read from buckets. "
      "Copy it here first."
    )
  return pathlib.Path(expanded)


def anywhere(text: str | os.PathLike[str]) -> Path:
  """As `expand`, for a path that may also be in a bucket: gs://BUCKET/PATH.

  Args:
    text: a path, or an address in Google Cloud Storage.

  Raises:
    ConfigError: as for `expand`; also for other addresses, for characters that
      files in buckets cannot have here, and if packages for buckets are
      missing.
  """
  written = os.fspath(text)
  found = _SCHEME.fullmatch(written)
  if not found or os.path.lexists(written):
    return expand(written)
  expanded = _with_variables(written)
  place = expanded.partition("://")[2].rstrip("/")
  if found[1] != "gs" or not _IN_A_BUCKET.fullmatch(place):
    raise ConfigError(
      f"{written!r} must be a path of this machine, or gs://BUCKET/PATH of "
      "letters, digits, spaces and ./_=,+@:~%- in Google Cloud Storage."
    )
  from okd_jax.storage import bucket

  return bucket.path(f"gs://{place}")


def absolute(path: str | Path) -> Path:
  """The path, whatever the working directory will be."""
  if isinstance(path, str | pathlib.Path):
    return pathlib.Path(path).absolute()
  return path


def cache(name: str) -> pathlib.Path:
  """A folder of this user for what can be computed again; it may not exist."""
  try:
    home = pathlib.Path.home()
  except RuntimeError:  # as for a container's user without an entry
    home = pathlib.Path(tempfile.gettempdir())
  return home / ".cache" / "okd_jax" / name


def _with_variables(written: str) -> str:
  for variable in _VARIABLE.finditer(written):
    if variable[1].strip("{}") not in os.environ:
      raise ConfigError(
        f"the path {written!r} needs {variable[0]}, which is not set; set it, "
        "or choose a path without $."
      )
  return os.path.expandvars(written)
