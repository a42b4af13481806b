"""The saved steps of one directory: which exist, and which are kept."""

import contextlib
import fnmatch
import logging
import os
import pathlib
import shutil

import jax

from okd_jax.errors import CheckpointError
from okd_jax.storage import bucket, files, manifest as manifest_lib
from okd_jax.storage.manifest import (
  Manifest,
  ManifestError,
  UnreadableError,
)
from okd_jax.storage.paths import Path

_SUFFIX = ".manifest.json"
# Left behind by a process that died while it saved or deleted.
_DEBRIS = ("*.orbax-checkpoint-tmp*", "*.tmp", "*.deleted")

_log = logging.getLogger(__name__)


class Steps:
  """The steps of one directory; one process of a run changes them.

  Attributes:
    directory: directory with `<step>/` and `<step>.manifest.json` of every
      step.
  """

  def __init__(self, directory: Path):
    self.directory = directory
    self._swept = False
    self._unused: dict[int, ManifestError] = {}

  def prepare(self, size: int) -> None:
    """Makes the directory, and sweeps it the first time.

    Args:
      size: size of a state, in bytes.

    Raises:
      CheckpointError: if the directory cannot be written to or has less free
        space than twice that size.
    """
    try:
      files.make_folder(self.directory)
      if not self._swept and jax.process_index() == 0:
        self.sweep()
      self._swept = True
      if isinstance(self.directory, pathlib.Path):
        self._require_space(self.directory, size)
    except OSError as error:
      raise CheckpointError(
        f"{self.directory} cannot be written: {error}. Choose another workdir."
      ) from error

  def _require_space(self, directory: pathlib.Path, size: int) -> None:
    free = shutil.disk_usage(directory).free
    if not os.access(directory, os.W_OK | os.X_OK):
      raise CheckpointError(
        f"{directory} is read-only. Choose another workdir."
      )
    if free < 2 * size:
      raise CheckpointError(
        f"{directory} has {free / 1e6:.1f} MB free, a save needs twice "
        f"the state, {2 * size / 1e6:.1f} MB. Free some space or choose "
        "another workdir; older checkpoints are untouched."
      )

  def folder(self, step: int) -> Path:
    """The folder of the arrays of a step."""
    return self.directory / str(step)

  def manifest_path(self, step: int) -> Path:
    """The path of the manifest of a step."""
    return self.directory / f"{step}{_SUFFIX}"

  def with_manifest(self) -> list[int]:
    """The steps with a manifest, ascending; not verified."""
    return sorted(
      int(path.name.removesuffix(_SUFFIX))
      for path in self._inside(f"*{_SUFFIX}")
      if path.name.removesuffix(_SUFFIX).isdecimal()
    )

  def verify(self, step: int) -> Manifest:
    """Reads all files of a step.

    Raises:
      ManifestError: unless each is the one that was saved.
    """
    content = manifest_lib.read(self.manifest_path(step))
    if content.step != step:
      raise ManifestError(
        f"{self.manifest_path(step)} is of step {content.step}"
      )
    manifest_lib.check_files(self.folder(step), content)
    return content

  def newest_verified(self) -> int | None:
    """The newest step whose files all match; reports newer ones that do not."""
    for step in reversed(self._all()):
      try:
        self.verify(step)
      except ManifestError as error:
        self._unused[step] = error
        _log.warning("Checkpoint of step %d is not used: %s", step, error)
      else:
        return step
    return None

  def why_none_is_verified(self) -> str:
    """A message that `newest_verified` found no step, and what to do."""
    start = f"{self.directory} holds no verified checkpoint"
    saved = self.with_manifest()
    if not saved:
      return (
        f"{start}. Nothing was saved there yet: wait for the first save of a "
        "run that trains; one that was stopped before it begins again by its "
        "command."
      )
    why = self._unused.get(saved[-1], "it was saved just now")
    return (
      f"{start}: {why}. Nothing was changed. Try again if its files could not "
      "be read for a while; if they are damaged, start anew in another workdir."
    )

  def best_verified(self) -> int | None:
    """The step with the highest score whose files all match."""
    scores = {}
    for step in self._all():
      try:
        score = self.verify(step).score
      except ManifestError as error:
        _log.warning("Checkpoint of step %d is not used: %s", step, error)
        continue
      if score is not None:
        scores[step] = score
    return max(scores, key=lambda s: (scores[s], s), default=None)

  def retain(self, just_saved: int, keep: int) -> None:
    """Deletes the steps that are neither among the newest nor the best.

    Args:
      just_saved: a step that is kept in any case.
      keep: how many of the newest verified steps are kept.
    """
    verified: dict[int, Manifest] = {}
    # Perhaps whole: a disk or bucket that is out of reach for a while.
    unreadable = set()
    for step in reversed(self._all()):
      try:
        verified[step] = self.verify(step)
      except UnreadableError as error:
        unreadable.add(step)
        _log.warning("Checkpoint of step %d is kept: %s", step, error)
      except ManifestError as error:
        _log.warning("Checkpoint of step %d is deleted: %s", step, error)
    kept = {just_saved, *list(verified)[:keep], *unreadable}
    scores = {s: m.score for s, m in verified.items() if m.score is not None}
    if scores:
      kept.add(max(scores, key=lambda s: (scores[s], s)))
    for step in self._all():
      if step not in kept:
        self.delete(step)

  def delete(self, step: int) -> None:
    """Deletes a step, whatever there is of it."""
    # In this order a process that dies here leaves nothing half usable.
    self.manifest_path(step).unlink(missing_ok=True)
    files.remove_folder(self.folder(step))

  def sweep(self) -> None:
    """Deletes what a process left when it died while saving or deleting."""
    for pattern in _DEBRIS:
      for path in self._inside(pattern):
        with contextlib.suppress(OSError):
          if path.is_dir():
            files.remove_folder(path)
          else:
            path.unlink(missing_ok=True)

  def _all(self) -> list[int]:
    """Steps with a manifest or a folder, ascending."""
    folders = (
      int(path.name)
      for path in self._inside("*")
      if path.name.isdecimal() and path.is_dir()
    )
    return sorted({*self.with_manifest(), *folders})

  def _inside(self, pattern: str) -> list[Path]:
    with bucket.reached(self.directory):
      there = self.directory.iterdir() if self.directory.is_dir() else ()
      return [p for p in there if fnmatch.fnmatchcase(p.name, pattern)]
