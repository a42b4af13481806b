"""Checkpoints: save, verify, restore, retain.

A step is an Orbax directory `<step>/` and, written last, a manifest
`<step>.manifest.json`. A step without a manifest, or with a file that does
not match it, is never used.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
import contextlib
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

from okd_jax.devices import signals
from okd_jax.devices.processes import Meeting
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

  Saves run in one background thread. With several processes every process
  makes the same calls in its main thread; process 0 verifies, writes manifests
  and deletes, and a problem of one process is raised in all. Reading never
  changes the directory, so another program may read while a run writes.

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
    self._worker = futures.ThreadPoolExecutor(1, "checkpoint")
    self._pending: tuple[futures.Future[None], Meeting] | None = None
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
    self._preflight_everywhere(state)
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
    meeting = Meeting()
    written = self._worker.submit(
      self._write_and_report, content, leaves_lib.copy(leaves), meeting
    )
    self._pending = written, meeting
    if wait:
      self.finish()

  def finish(self) -> None:
    """Waits for the save under way; raises CheckpointError if it failed."""
    pending, self._pending = self._pending, None
    if pending is None:
      return
    written, meeting = pending
    # Not of the own part first: it may wait for a process that has failed.
    if problem := meeting.outcome():
      raise CheckpointError(problem)
    written.result()

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
    return json.loads(Meeting().told(lambda: json.dumps(self._newest())))

  def _newest(self) -> int | None:
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
    content = self._read_everywhere(step, leaves_lib.describe(wanted))
    item, args = leaves_lib.plan(wanted, content.apart)
    with _orbax(Meeting()) as orbax:
      tree = orbax.restore(
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
      written, meeting = self._pending
      if not meeting.outcome():
        futures.wait([written])

  def _preflight_everywhere(self, state: Any) -> None:
    problem = ""
    try:
      self.preflight(state)
    except CheckpointError as error:
      problem = str(error)
    if problem := Meeting().settle(problem):
      raise CheckpointError(problem)

  def _read_everywhere(self, step: int, leaves: Sequence[Leaf]) -> Manifest:
    """The manifest of a step that may be restored, verified by process 0."""
    problem, content = "", None
    try:
      content = manifest_lib.read(self._manifest_path(step))
      # Before the sums: a wrong configuration is told without reading arrays.
      self._require_same(content, leaves)
      if jax.process_index() == 0:
        manifest_lib.check_files(self.directory / str(step), content)
    except CheckpointError as error:
      problem = str(error)
    except ManifestError as error:
      problem = (
        f"Step {step} cannot be restored: {error}. Leave the step out to use "
        "the newest verified one."
      )
    problem = Meeting().settle(problem)
    if problem or content is None:
      raise CheckpointError(problem)
    return content

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
        self._sweep()
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
        saved.append(self._verify(step))
      except ManifestError:
        self._delete(step)
        return "write"
      return "keep"

    if meeting.told(decide) == "write":
      tree, apart = leaves_lib.pack(leaves)
      content = dataclasses.replace(content, apart=apart)
      with _orbax(meeting) as orbax:
        orbax.save(self.directory / str(step), args=ocp.args.PyTreeSave(tree))
        orbax.wait_until_finished()
    if not primary:
      return
    if saved:
      self._require_same(saved[0], content.leaves)
      content = dataclasses.replace(
        content, apart=saved[0].apart, files=saved[0].files
      )
    else:
      files = manifest_lib.hash_files(self.directory / str(step))
      content = dataclasses.replace(content, files=files)
    manifest_lib.write(self._manifest_path(step), content)
    self._retain(step)

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
