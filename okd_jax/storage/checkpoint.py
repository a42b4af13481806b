"""Checkpoints: save, verify, restore, retain.

A step is an Orbax directory `<step>/` and, written last, a manifest. A step
without a manifest, or with a file that does not match it, is never used.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
import dataclasses
import json
import math
from typing import Any

import jax
import jax.numpy as jnp

from okd_jax.devices import signals
from okd_jax.devices.processes import Meeting
from okd_jax.errors import CheckpointError
from okd_jax.storage import arrays, manifest as manifest_lib, packing, paths
from okd_jax.storage.manifest import Leaf, Manifest, ManifestError
from okd_jax.storage.packing import Named
from okd_jax.storage.paths import Path
from okd_jax.storage.steps import Steps


class Checkpoints:
  """The checkpoints of one run, in one directory.

  Saves run in one background thread. If there are several processes, every
  process makes the same calls in its main thread; process 0 verifies, writes
  manifests and deletes, and a problem of one process is raised in all. Reading
  never changes the directory, so another program may read while a run writes.

  Attributes:
    directory: directory of the steps; created by the first save.
    keep: how many of the newest verified steps are kept, in addition to the
      best one.
    config_hash: hash of the settings that a resumed run must not change. A step
      saved with another hash is refused; "" switches this check off.
  """

  def __init__(
    self,
    directory: str | Path,
    *,
    keep: int = 2,
    config_hash: str = "",
  ):
    if keep < 1:
      raise ValueError(f"keep={keep} must be at least 1, or nothing is left.")
    self.directory = paths.absolute(directory)
    self._steps = Steps(self.directory)
    self.keep = keep
    self.config_hash = config_hash
    self._worker = futures.ThreadPoolExecutor(1, "checkpoint")
    self._pending: tuple[futures.Future[None], Meeting] | None = None

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
      wait: whether to return only when the step is verified.
      score: score that decides which step is the best; higher is better.
      extra: JSON values that `restore` returns.

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
    self._preflight_together(state)
    leaves = packing.named(state)
    content = Manifest(
      step=int(step),
      config_hash=self.config_hash,
      leaves=packing.describe(leaves),
      apart=(),
      files={},
      extra=extra,
      score=None if score is None else float(score),
    )
    meeting = Meeting()
    written = self._worker.submit(
      self._write_and_report, content, packing.copy(leaves), meeting
    )
    self._pending = written, meeting
    if wait:
      self.finish()

  def finish(self) -> None:
    """Waits for the current save; raises CheckpointError if it failed."""
    pending, self._pending = self._pending, None
    if pending is None:
      return
    written, meeting = pending
    # First, since the save here may wait for a process that has failed.
    if problem := meeting.outcome():
      raise CheckpointError(problem)
    written.result()

  def close(self) -> None:
    """Waits for the current save, at most a minute, and ignores its result."""
    if self._pending is not None:
      futures.wait(self._pending[:1], timeout=60)

  def check(self) -> None:
    """Raises CheckpointError if a background save has failed.

    Never waits for a save; processes of one run must call this together.
    """
    if self._pending is None:
      return
    written, meeting = self._pending
    failed = written.done() and written.exception() is not None
    # Seen at different moments, but raised at the same step.
    if signals.agree(failed or meeting.problem() != ""):
      self.finish()

  def preflight(self, state: Any) -> None:
    """Raises CheckpointError unless a state could be saved here.

    The directory must be writable and have twice the size of the state free.
    The state holds arrays or `jax.ShapeDtypeStruct`.
    """
    size = sum(
      math.prod(shape) * jnp.dtype(dtype).itemsize
      for _, shape, dtype in packing.describe(packing.named(state))
    )
    self._steps.prepare(size)

  def steps(self) -> list[int]:
    """The steps with a manifest, ascending; not verified."""
    return self._steps.with_manifest()

  def latest_verified(self) -> int | None:
    """The newest step whose files all match; reports newer ones that do not."""
    return self._chosen(self._steps.newest_verified)

  def best_verified(self) -> int | None:
    """The step with the highest score whose files all match; None without."""
    return self._chosen(self._steps.best_verified)

  def restore(
    self, abstract_state: Any, step: int | None = None
  ) -> tuple[Any, int, dict[str, Any]]:
    """Restores a verified step.

    Args:
      abstract_state: pytree of `jax.ShapeDtypeStruct`, with the shardings to
        restore onto, which may differ from the saved ones. NumPy arrays and
        Python numbers are restored as such.
      step: which step; None takes the newest verified one.

    Returns:
      The state, its step and the extra values saved with it.

    Raises:
      CheckpointError: if there is no such verified step, or it belongs to
        another configuration; the first differing leaves are named.
    """
    if step is None and (step := self.latest_verified()) is None:
      why = self._steps.why_none_is_verified
      raise CheckpointError(Meeting().told(why))
    self._wait()
    wanted = packing.named(abstract_state)
    content = self._read_together(step, packing.describe(wanted))
    item, args = packing.plan(wanted, content.apart)
    tree = arrays.restore(self._steps.folder(step), item, args)
    structure = jax.tree.structure(abstract_state)
    state = jax.tree.unflatten(structure, packing.unpack(tree, wanted))
    return state, step, dict(content.extra)

  def _chosen(self, choose: Callable[[], int | None]) -> int | None:
    """The choice of process 0, the same in all processes."""
    self._wait()
    return json.loads(Meeting().told(lambda: json.dumps(choose())))

  def _wait(self) -> None:
    """Waits for the current save; leaves its error to `finish`."""
    if self._pending is not None and not self._pending[1].outcome():
      futures.wait(self._pending[:1])

  def _preflight_together(self, state: Any) -> None:
    problem = ""
    try:
      self.preflight(state)
    except CheckpointError as error:
      problem = str(error)
    if problem := Meeting().agree(problem):
      raise CheckpointError(problem)

  def _read_together(self, step: int, leaves: Sequence[Leaf]) -> Manifest:
    """The manifest of a step that may be restored, verified by process 0."""
    problem, content = "", None
    try:
      content = manifest_lib.read(self._steps.manifest_path(step))
      # Before the sums: a wrong configuration is told without reading arrays.
      self._require_same(content, leaves)
      if jax.process_index() == 0:
        manifest_lib.check_files(self._steps.folder(step), content)
    except CheckpointError as error:
      problem = str(error)
    except ManifestError as error:
      problem = (
        f"Step {step} cannot be restored: {error}. Leave the step out to use "
        "the newest verified one."
      )
    problem = Meeting().agree(problem)
    if problem or content is None:
      raise CheckpointError(problem)
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

  def _write_and_report(
    self, content: Manifest, leaves: Sequence[Named], meeting: Meeting
  ) -> None:
    """Saves one step; runs in the background thread."""
    try:
      self._write(content, leaves, meeting)
    except CheckpointError as error:
      meeting.report(str(error))
      raise
    except Exception as error:
      if jax.process_index() == 0:
        self._steps.sweep()
      failed = CheckpointError(
        f"Saving step {content.step} in {self.directory} failed: {error}. "
        "Earlier checkpoints are untouched. Check free space and permissions, "
        "then run the same command again to resume."
      )
      meeting.report(str(failed))
      raise failed from error
    meeting.report()

  def _write(
    self, content: Manifest, leaves: Sequence[Named], meeting: Meeting
  ) -> None:
    step, primary = content.step, jax.process_index() == 0
    saved: list[Manifest] = []  # of process 0, which decides

    def decide() -> str:
      try:
        saved.append(self._steps.verify(step))
      except ManifestError:
        self._steps.delete(step)
        return "write"
      return "keep"

    if meeting.told(decide) == "write":
      tree, apart = packing.pack(leaves)
      content = dataclasses.replace(content, apart=apart)
      arrays.save(self._steps.folder(step), tree, meeting)
    if not primary:
      return
    if saved:
      self._require_same(saved[0], content.leaves)
      content = dataclasses.replace(
        content, apart=saved[0].apart, files=saved[0].files
      )
    else:
      files = manifest_lib.hash_files(self._steps.folder(step))
      content = dataclasses.replace(content, files=files)
    manifest_lib.write(self._steps.manifest_path(step), content)
    self._steps.retain(step, self.keep)
