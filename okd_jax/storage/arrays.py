"""Writes arrays to files and reads them, with Orbax."""

from collections.abc import Iterator
import contextlib
import pathlib
import re
import tempfile
from typing import Any

import jax
import orbax.checkpoint as ocp

from okd_jax.devices.processes import Meeting
from okd_jax.errors import CheckpointError
from okd_jax.storage.paths import Path

# Paths that mean the same to the file system and to Orbax. It looks for files
# by patterns that begin with the path, takes some paths for addresses of
# storage elsewhere, and wants UTF-8.
_PLAIN = re.compile(r"(?!/(gs|s3|az|hf)/)[\w./ =,+@:~%-]*", re.ASCII)


def save(folder: Path, tree: Any, meeting: Meeting) -> None:
  """Writes a tree of arrays into a new folder; may run in any thread.

  The first process then opens every array as `restore` does, without reading
  its values.

  Raises:
    ValueError: naming the first array that cannot be read back.
    Exception: whatever Orbax raises.
  """
  with _plain(folder) as path:
    with _orbax(meeting) as orbax:
      orbax.save(path, args=ocp.args.PyTreeSave(tree))
      orbax.wait_until_finished()
    if jax.process_index() == 0:
      _check(path, tree)


def restore(folder: Path, item: Any, args: Any) -> Any:
  """Reads a tree of arrays, with the result of `okd_jax.storage.packing.plan`.

  Raises:
    CheckpointError: if Orbax cannot read them, as in some folders of earlier
      releases.
  """
  try:
    with _plain(folder) as path, _orbax(Meeting()) as orbax:
      return orbax.restore(
        path, args=ocp.args.PyTreeRestore(item=item, restore_args=args)
      )
  except Exception as error:  # Orbax and what is below it raise anything
    raise CheckpointError(
      f"{folder} holds the files that were saved, but they cannot be read as "
      f"arrays ({type(error).__name__}: {error}). Remove {folder} and "
      f"{folder}.manifest.json to use the step before it."
    ) from error


def _check(path: Path, tree: Any) -> None:
  """Raises ValueError unless a folder's arrays have the tree's shapes."""
  found = ocp.PyTreeCheckpointHandler().metadata(path)
  known = {
    jax.tree_util.keystr(where): (tuple(array.shape), array.dtype)
    for where, array in jax.tree_util.tree_leaves_with_path(found.tree)
  }
  for where, array in jax.tree_util.tree_leaves_with_path(tree):
    name = jax.tree_util.keystr(where)
    if known.get(name) != (tuple(array.shape), array.dtype):
      raise ValueError(
        f"the array {name} reads back as {known.get(name, 'nothing')}"
      )


@contextlib.contextmanager
def _plain(folder: Path) -> Iterator[Path]:
  """A path of the folder that Orbax and the file system read alike."""
  if not isinstance(folder, pathlib.Path) or _PLAIN.fullmatch(str(folder)):
    yield folder
    return
  with tempfile.TemporaryDirectory(prefix="okd_jax_") as made:
    alias = pathlib.Path(made) / "to"
    alias.symlink_to(folder.parent.resolve(), target_is_directory=True)
    yield alias / folder.name


@contextlib.contextmanager
def _orbax(meeting: Meeting) -> Iterator[ocp.AsyncCheckpointer]:
  """Orbax for one save or restore.

  If the processes are named, Orbax makes them wait for each other through the
  coordination service. By default it would use their devices, also in the
  background thread.
  """
  several = jax.process_count() > 1
  together = ocp.options.MultiprocessingOptions(
    active_processes=set(range(jax.process_count())) if several else None,
    barrier_sync_key_prefix=meeting.name if several else None,
  )
  orbax = ocp.AsyncCheckpointer(
    # Trained weights shrink by 7 % and take a third longer.
    ocp.PyTreeCheckpointHandler(
      use_compression=False, multiprocessing_options=together
    ),
    multiprocessing_options=together,
  )
  try:
    yield orbax
  finally:
    orbax.close()
