"""What the owner of a work directory says of itself, and what others read."""

import json
import os
import socket
from typing import Any

from okd_jax.errors import InUseError


def content(**more: Any) -> str:
  """The text in which this process says who it is, and `more`."""
  return json.dumps({"host": socket.gethostname(), "pid": os.getpid()} | more)


def field(said: str | bytes, name: str) -> Any:
  """A value of such a text; None if it is absent or the text is damaged."""
  try:
    return json.loads(said)[name]
  except (ValueError, LookupError, TypeError):
    return None


def name(said: str | bytes | None) -> str:
  """The owner in words; `said` is None if there is no text."""
  host, pid = (said and field(said, key) for key in ("host", "pid"))
  if not host or not pid:
    return "which has not said who it is"
  return f"host {host}, process id {pid}"


def in_use(workdir: object, said: str | bytes | None) -> InUseError:
  """The error of a run that found its work directory taken."""
  return InUseError(
    f"{workdir} is in use by another run ({name(said)}). Wait until it ends, "
    "stop it, or choose another workdir."
  )
