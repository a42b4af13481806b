"""Paths as people write them."""

import os
from pathlib import Path
import re

from okd_jax.errors import ConfigError

_VARIABLE = re.compile(r"\$([A-Za-z_]\w*|\{[^}]*\})", re.ASCII)


def expand(text: str | os.PathLike[str]) -> Path:
  """Replaces ~ and $VARIABLES as a shell does.

  A shell itself does not replace them everywhere, for example not behind
  `--workdir=`, and recipes are read by no shell.

  Args:
    text: a path. One that exists as it is written is that path.

  Raises:
    ConfigError: naming a variable or a user that there is not.
  """
  written = os.fspath(text)
  if not written.startswith("~") and os.path.lexists(written):
    return Path(written)
  for variable in _VARIABLE.finditer(written):
    if variable[1].strip("{}") not in os.environ:
      raise ConfigError(
        f"the path {written!r} needs {variable[0]}, which is not set; set it, "
        "or choose a path without $."
      )
  expanded = os.path.expanduser(os.path.expandvars(written))
  if written.startswith("~") and expanded.startswith("~"):
    raise ConfigError(
      f"the path {written!r} begins with the home of a user who is not known; "
      "write ./~ for a file that is called so."
    )
  return Path(expanded)
