"""Checkpoints: save, verify, restore, retain.

A step is an Orbax directory `<step>/` and, written last, a manifest
`<step>.manifest.json`. A step without a manifest, or with a file that does
not match it, is never used.
"""

from collections.abc import Mapping, Sequence
from concurrent import futures
import dataclasses
import json
import logging
import math
import os
from pathlib import Path
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from okd_jax.errors import CheckpointError
from okd_jax.storage import manifest as manifest_lib, packing as leaves_lib
from okd_jax.storage.manifest import Leaf, Manifest, ManifestError
from okd_jax.storage.packing import Named

_SUFFIX = ".manifest.json"
# Left behind by a process that died while it saved or deleted.
_DEBRIS = ("*.orbax-checkpoint-tmp*", "*.tmp", "*.deleted")

_log = logging.getLogger(__name__)


class Checkpoints:
  """The checkpoints of one run, in one directory.

  Saves run in one background thread; with several processes every process
  makes the same calls and process 0 writes manifests and deletes. Reading
  never changes the directory, so another program may read while a run writes.

  Attributes:
    directory: where the steps lie; made by the first save.
    keep: how many of the newest verified steps are kept, the best beside them.
    config_hash: of what a resumed run must not change. A step saved under
      another one is refused; an empty string switches this check off.
  """

  def __init__(
    self,
    directory: str | os.PathLike[str],
    *,
    keep: int = 2,
    config_hash: str = "",
  ):
    if keep < 1:
      raise ValueError(f"keep={keep} must be at least 1, or nothing is left.")
    self.directory = Path(directory).absolute()
    self.keep = keep
    self.config_hash = config_hash
    self._orbax = ocp.AsyncCheckpointer(
      # Trained weights shrink by 7 % and take a third longer.
      ocp.PyTreeCheckpointHandler(use_compression=False)
    )
    self._worker = futures.ThreadPoolExecutor(1, "checkpoint")
    self._pending: futures.Future[None] | None = None
    self._swept = False

  def save(
    self,
    step: int,
    state: Any,
    *,
    wait: bool = False,
    score: float | None = None,
    extra: Mapping[str, Any] | None = None,
  ) -> None:
    """Saves a state in the background.

    The arrays are copied on their devices before this returns, so the caller
    may donate them. A step that is already saved is not written again; its
    score and extra values are replaced.

    Args:
      step: number of finished training steps.
      state: any pytree of arrays and numbers; random keys as key data.
      wait: return only when the step is verified.
      score: what retention ranks by, higher is better.
      extra: JSON values that `restore` gives back.

    Raises:
      CheckpointError: if this save cannot start or the previous one failed.
      ValueError: if `extra` or `score` cannot be written as JSON.
    """
    self.finish()
    try:
      # Round trip: what is saved is what every later reader sees.
      extra = json.loads(json.dumps(dict(extra or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
      raise ValueError(f"extra must hold JSON values only: {error}") from error
    if score is not None and not math.isfinite(score):
      raise ValueError(f"score={score} must be finite, or None.")
    self.preflight(state)
    leaves = leaves_lib.named(state)
    content = Manifest(
      step=int(step),
      config_hash=self.config_hash,
      leaves=leaves_lib.describe(leaves),
      apart=(),
      files={},
      extra=extra,
      score=None if score is None else float(score),
    )
    self._pending = self._worker.submit(
      self._write, content, leaves_lib.copy(leaves)
    )
    if wait:
      self.finish()

  def finish(self) -> None:
    """Waits for the save under way; raises CheckpointError if it failed."""
    pending, self._pending = self._pending, None
    if pending is not None:
      pending.result()

  def check(self) -> None:
    """Raises CheckpointError if a background save has failed; never waits."""
    if self._pending is not None and self._pending.done():
      self.finish()

  def preflight(self, state: Any) -> None:
    """Checks that the state can be saved here.

    Args:
      state: pytree of arrays, or of `jax.ShapeDtypeStruct`.

    Raises:
      CheckpointError: if the directory cannot be written or has less free
        space than twice the size of the state.
    """
    size = sum(
      math.prod(shape) * jnp.dtype(dtype).itemsize
      for _, shape, dtype in leaves_lib.describe(leaves_lib.named(state))
    )
    try:
      self.directory.mkdir(parents=True, exist_ok=True)
      if not self._swept and jax.process_index() == 0:
        self._sweep()
      self._swept = True
      free = shutil.disk_usage(self.directory).free
    except OSError as error:
      raise CheckpointError(
        f"{self.directory} cannot be written: {error}. Choose another workdir."
      ) from error
    if not os.access(self.directory, os.W_OK | os.X_OK):
      raise CheckpointError(
        f"{self.directory} is read-only. Choose another workdir."
      )
    if free < 2 * size:
      raise CheckpointError(
        f"{self.directory} has {free / 1e6:.1f} MB free, a save needs twice "
        f"the state, {2 * size / 1e6:.1f} MB. Free some space or choose "
        "another workdir; older checkpoints are untouched."
      )

  def steps(self) -> list[int]:
    """The steps with a manifest, ascending; not verified."""
    return sorted(
      int(path.name.removesuffix(_SUFFIX))
      for path in self.directory.glob(f"*{_SUFFIX}")
      if path.name.removesuffix(_SUFFIX).isdecimal()
    )

  def latest_verified(self) -> int | None:
    """The newest step whose files all match; None if there is none.

    Steps that are passed over are reported with the file that is bad.
    """
    self._settle()
    for step in reversed(self._all_steps()):
      try:
        self._verify(step)
      except ManifestError as error:
        _log.warning("Checkpoint of step %d is not used: %s", step, error)
      else:
        return step
    return None

  def restore(
    self, abstract_state: Any, step: int | None = None
  ) -> tuple[Any, int, dict[str, Any]]:
    """Restores a verified step.

    Args:
      abstract_state: pytree of `jax.ShapeDtypeStruct`, with the shardings to
        restore onto: they may differ from those that were saved. NumPy arrays
        and Python numbers come back as such.
      step: which step; None takes the newest verified one.

    Returns:
      The state, its step and the extra values saved with it.

    Raises:
      CheckpointError: if there is no such verified step, or it belongs to
        another configuration; the first differing leaves are named.
    """
    if step is None:
      step = self.latest_verified()
      if step is None:
        raise CheckpointError(
          f"{self.directory} holds no verified checkpoint. Start anew in "
          "another workdir."
        )
    self._settle()
    wanted = leaves_lib.named(abstract_state)
    try:
      content = manifest_lib.read(self._manifest_path(step))
      # Before the sums: a wrong configuration is told without reading arrays.
      self._require_same(content, leaves_lib.describe(wanted))
      manifest_lib.check_files(self.directory / str(step), content)
    except ManifestError as error:
      raise CheckpointError(
        f"Step {step} cannot be restored: {error}. Leave the step out to use "
        "the newest verified one."
      ) from error
    item, args = leaves_lib.plan(wanted, content.apart)
    tree = self._orbax.restore(
      self.directory / str(step),
      args=ocp.args.PyTreeRestore(item=item, restore_args=args),
    )
    state = jax.tree.unflatten(
      jax.tree.structure(abstract_state), leaves_lib.unpack(tree, wanted)
    )
    return state, step, dict(content.extra)

  def _settle(self) -> None:
    """Waits for the save under way; its error is left for `finish`."""
    if self._pending is not None:
      futures.wait([self._pending])

  def _manifest_path(self, step: int) -> Path:
    return self.directory / f"{step}{_SUFFIX}"

  def _all_steps(self) -> list[int]:
    """Steps with a manifest or a directory, ascending."""
    directories = (
      int(path.name)
      for path in self.directory.glob("*")
      if path.name.isdecimal() and path.is_dir()
    )
    return sorted({*self.steps(), *directories})

  def _verify(self, step: int) -> Manifest:
    content = manifest_lib.read(self._manifest_path(step))
    if content.step != step:
      raise ManifestError(
        f"{self._manifest_path(step)} is of step {content.step}"
      )
    manifest_lib.check_files(self.directory / str(step), content)
    return content

  def _require_same(self, saved: Manifest, leaves: Sequence[Leaf]) -> None:
    differences = manifest_lib.compare_leaves(saved.leaves, leaves)
    hashes = saved.config_hash, self.config_hash
    if all(hashes) and hashes[0] != hashes[1]:
      differences.append(f"config: saved {hashes[0]}, now {hashes[1]}")
    if differences:
      raise CheckpointError(
        f"Step {saved.step} in {self.directory} was saved by another "
        "configuration:\n  "
        + "\n  ".join(differences)
        + "\nUse the configuration that saved it, or another workdir."
      )

  def _write(self, content: Manifest, leaves: Sequence[Named]) -> None:
    """Saves one step; runs in the background thread."""
    step, primary = content.step, jax.process_index() == 0
    try:
      try:
        saved = self._verify(step)
      except ManifestError:
        if primary:
          self._delete(step)
        tree, apart = leaves_lib.pack(leaves)
        self._orbax.save(
          self.directory / str(step), args=ocp.args.PyTreeSave(tree)
        )
        self._orbax.wait_until_finished()
        files: Mapping[str, tuple[int, str]] = {}
      else:
        self._require_same(saved, content.leaves)
        apart, files = saved.apart, saved.files
      if primary:
        files = files or manifest_lib.hash_files(self.directory / str(step))
        content = dataclasses.replace(content, apart=apart, files=files)
        manifest_lib.write(self._manifest_path(step), content)
        self._retain(step)
    except CheckpointError:
      raise
    except Exception as error:
      if primary:
        self._sweep()
      raise CheckpointError(
        f"Saving step {step} in {self.directory} failed: {error}. Earlier "
        "checkpoints are untouched. Check free space and permissions, then "
        "run the same command again to resume."
      ) from error

  def _retain(self, just_saved: int) -> None:
    """Deletes what is neither new nor best, once it is not needed."""
    verified: dict[int, Manifest] = {}
    for step in reversed(self._all_steps()):
      try:
        verified[step] = self._verify(step)
      except ManifestError as error:
        _log.warning("Checkpoint of step %d is deleted: %s", step, error)
    kept = {just_saved, *list(verified)[: self.keep]}
    scores = {s: m.score for s, m in verified.items() if m.score is not None}
    if scores:
      kept.add(max(scores, key=lambda s: (scores[s], s)))
    for step in self._all_steps():
      if step not in kept:
        self._delete(step)

  def _delete(self, step: int) -> None:
    # In this order a process that dies here leaves nothing half usable.
    self._manifest_path(step).unlink(missing_ok=True)
    directory = self.directory / str(step)
    if directory.exists():
      deleted = directory.with_name(f"{step}.deleted")
      shutil.rmtree(deleted, ignore_errors=True)
      directory.rename(deleted)
      shutil.rmtree(deleted)

  def _sweep(self) -> None:
    for pattern in _DEBRIS:
      for path in self.directory.glob(pattern):
        if path.is_dir():
          shutil.rmtree(path, ignore_errors=True)
        else:
          path.unlink(missing_ok=True)
