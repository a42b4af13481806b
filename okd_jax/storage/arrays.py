"""Arrays in files, written and read by Orbax."""

from collections.abc import Iterator
import contextlib
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from okd_jax.devices.processes import Meeting


def save(folder: Path, tree: Any, meeting: Meeting) -> None:
  """Writes a tree of arrays into a new folder; may run in any thread."""
  with _orbax(meeting) as orbax:
    orbax.save(folder, args=ocp.args.PyTreeSave(tree))
    orbax.wait_until_finished()


def restore(folder: Path, item: Any, args: Any) -> Any:
  """Reads a tree of arrays, as `okd_jax.storage.packing.plan` has planned."""
  with _orbax(Meeting()) as orbax:
    return orbax.restore(
      folder, args=ocp.args.PyTreeRestore(item=item, restore_args=args)
    )


@contextlib.contextmanager
def _orbax(meeting: Meeting) -> Iterator[ocp.AsyncCheckpointer]:
  """Orbax for one save or restore.

  Where the processes are named, Orbax makes them wait for each other through
  the coordination service; with its default it would use their devices, in
  the background thread too.
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
