"""Checks whether a run continues with the teacher that it began with."""

import hashlib
import json

import jax

from okd_jax.core import Variables
from okd_jax.devices import mesh as mesh_lib
from okd_jax.errors import ConfigError
from okd_jax.runs import run as run_lib
from okd_jax.settings.schema import RunConfig
from okd_jax.storage import files
from okd_jax.storage.paths import Path

# Absent where there is no teacher, and in runs of earlier releases.
_FILE = "teacher_weights.json"


def remember(workdir: Path, weights: Variables | None) -> None:
  """Records which teacher a run has.

  Args:
    workdir: work directory of the run.
    weights: weights of the teacher, if any; collected by all processes.
  """
  if weights is None:
    return
  content = json.dumps({"sha256": _sum(weights)}) + "\n"
  if jax.process_index() == 0:
    files.write(workdir / _FILE, content, durable=True)


def require(
  config: RunConfig, workdir: Path, weights: Variables | None
) -> None:
  """Refuses a teacher other than the one that a run began with, if any.

  Args:
    config: configuration of the command.
    workdir: work directory of a run that has begun.
    weights: weights of the teacher, if any; collected by all processes.

  Raises:
    ConfigError: if the weights differ, wherever the teacher is stored.
  """
  path = workdir / _FILE
  if files.exists(path):
    found = None if weights is None else _sum(weights)
    if _read(path) == found:
      return
    expected = "the network that it began with, and has other weights"
  else:
    before = (run_lib.saved_config(workdir) or {}).get("teacher")
    if not before or before == config.teacher:
      return
    expected = f"{before!r}, as when the run began"
  raise ConfigError(
    f"config.teacher={config.teacher!r} in {workdir} must be {expected}; name "
    "that one, or choose another --workdir."
  )


def _read(path: Path) -> str:
  try:
    return str(json.loads(files.text(path))["sha256"])
  except (OSError, ValueError, LookupError, TypeError) as error:
    raise ConfigError(
      f"{path} is damaged ({error}), so it cannot be told which teacher the "
      "run began with. Choose another --workdir; or remove the file, if "
      "config.teacher is as it was."
    ) from error


def _sum(weights: Variables) -> str:
  """Checksum of names, types and values; the same on all devices."""
  digest = hashlib.sha256()
  leaves = jax.tree_util.tree_leaves_with_path(mesh_lib.to_host(weights))
  for path, leaf in leaves:
    about = f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}"
    digest.update(about.encode() + leaf.tobytes())
  return digest.hexdigest()
