"""The training loop: one function, read from top to bottom."""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import logging
import time
from typing import Any

import jax

from okd_jax.core import Variables
from okd_jax.data import Source
from okd_jax.devices import signals
from okd_jax.errors import CheckpointError, ConfigError, Interrupted
from okd_jax.runs import (
  length,
  outcome,
  records,
  run as run_lib,
  same_processes,
  same_teacher,
  summary,
  workdir as workdir_lib,
)
from okd_jax.runs.best import Best, judge
from okd_jax.runs.due import Due
from okd_jax.runs.recorder import recording
from okd_jax.settings import build, config as config_lib, layout
from okd_jax.settings.schema import RunConfig
from okd_jax.storage import paths
from okd_jax.storage.checkpoint import Checkpoints
from okd_jax.storage.paths import Path
from okd_jax.training import autotune, finite, state as state_lib
from okd_jax.training.evaluate import Evaluator
from okd_jax.training.runner import Runner
from okd_jax.training.setup import initial_key, Setup, steps_key
from okd_jax.training.state import TrainState
from okd_jax.weights import export, init_from, teacher

_log = logging.getLogger(__name__)


def train(
  config: RunConfig,
  workdir: Path,
  began: float | None = None,
  stop: signals.Stop | None = None,
  watch: Callable[[Mapping[str, Any]], None] | None = None,
  still_ours: Callable[[], None] | None = None,
  like: Path | None = None,
) -> tuple[TrainState, dict[str, Any]]:
  """Trains a group, or continues where an earlier call stopped.

  Args:
    config: the configuration, see `okd_jax.settings.freeze.freeze`.
    workdir: the work directory, which gets config.json, metrics, checkpoints
      and summary.json.
    began: `time.monotonic()` at the start of the program, for the time to the
      first step; now by default.
    stop: context that reacts to signals, entered already, if it is also needed
      outside this run.
    watch: function that is called with every evaluation, the "epoch" that it
      is after and whether the run has "ended", and may raise to end the run.
    still_ours: function of the lock on the work directory, if that is already
      held.
    like: work directory of a run that must have had the same data and, if it
      has one, the same teacher, such as that of another seed.

  Returns:
    The final state and the summary.

  Raises:
    ConfigError: if the configuration cannot be run, or not in this work
      directory.
    DataError: if data are missing or damaged.
    NotFiniteError: if training diverged; the last good state stays saved.
    Interrupted: after a signal; the last finished step is saved.
  """
  began = time.monotonic() if began is None else began
  asked, config = config, workdir_lib.as_begun(config, workdir)
  source, setup, frozen = _open(config, workdir, asked.teacher, like)
  with contextlib.ExitStack() as stack:
    lock = workdir_lib.lock(workdir)
    still_ours = still_ours or stack.enter_context(lock)
    workdir_lib.require_shared(workdir)
    stop = stop or stack.enter_context(signals.Stop())
    checkpoints = run_lib.checkpoints(config, workdir)
    stack.callback(checkpoints.close)
    summary.show_plan(config, setup, source)
    with stop.busy("initialising"):
      state, step, unrecorded = _new_or_saved(config, setup, checkpoints)
    evaluator = Evaluator(setup, source, stop.progress)
    if config.best_by or config.patience or config.deploy == "best":
      judge(config, setup.task, evaluator.names(state))
    # Not before: a run that cannot start must not bind the work directory.
    run_lib.remember(config, setup, source, workdir)
    same_teacher.remember(workdir, frozen)
    key = steps_key(config.seed)
    runner = Runner(setup, source, state, key, frozen, unrecorded=unrecorded)
    due = Due(setup, config)
    first, total = step, setup.total_steps
    best = Best(config, setup.task, records.until(workdir, step), step)
    with recording(config, setup, workdir, step, best) as recorder:
      while step < total and not best.exhausted:
        compiling = stop.busy("compiling") if step == first else None
        with compiling or contextlib.nullcontext():
          if due.refresh(step):
            state = evaluator.refreshed(state)
          last = due.next_stop(step, runner.most_steps)
          state = runner.run(state, step, last)
        stop.expect(runner.first_step_seconds)
        recorder.started(time.monotonic() - began, runner)
        step = last

        if due.record(step):
          recorder.trained(step, runner)
        if due.evaluation(step):
          evaluated = recorder.evaluated(step, evaluator.figures(state))
          best.evaluated(evaluated)
          if best.exhausted and not due.record(step):
            recorder.trained(step, runner)
        ended = step == total or best.exhausted
        if due.evaluation(step) and watch is not None:
          epoch = setup.clock.epoch(step)
          watch(evaluated | {"epoch": epoch, "ended": ended})

        # Saved last, so that what is saved was recorded.
        still_ours()
        checkpoints.check()
        stopping = stop.agreed()
        score = best.score_at(step)
        if stopping or ended or score is not None or due.save(step):
          finite.check_state(step, state)
          recorder.flush()
          extra = {"unrecorded": runner.unrecorded}
          wait = stopping or ended
          checkpoints.save(step, state, wait=wait, extra=extra, score=score)
          due.saved()
        if stopping and not ended:
          raise Interrupted(
            f"Stopped after step {step} of {total}; the same command goes on."
          )
    checkpoints.finish()
    result = summary.write(config, setup, workdir, runner)
    _export_and_plot(run_lib.Run(workdir, config, setup, state, step))
    return state, summary.finish(workdir, result)


def _open(
  config: RunConfig, workdir: Path, teacher_at: str, like: Path | None
) -> tuple[Source, Setup, Variables | None]:
  """Checks the configuration and opens what it names.

  Args:
    config: configuration of the run.
    workdir: work directory of the run.
    teacher_at: where the teacher is now.
    like: as for `train`.

  Returns:
    The data, what stays fixed, and the variables of the frozen teacher.
  """
  here = dataclasses.replace(config, teacher=teacher_at)
  same_processes.require_settings(here)
  config_lib.check(here)
  if config.num_seeds != 1:
    raise ConfigError(
      f"config.num_seeds={config.num_seeds} must be 1 here, where one group "
      "is trained; call okd_jax.seeds.train for several."
    )
  workdir_lib.require_same_run(config, workdir)
  init_from.check(config, workdir)
  mesh = layout.mesh(config)
  source = build.source(config, mesh)
  same_processes.require_data(source)
  steps = run_lib.checkpoints(config, workdir).steps()
  others = [] if like is None else [like]
  # Without a step it begins anew, and may do so with other data.
  for begun in [workdir, *others] if steps else others:
    run_lib.require_same_data(begun, source)
    run_lib.require_same_order(begun, source)
  teacher_group, frozen = teacher.load(here, source.info, mesh)
  for begun in [workdir, *others]:
    if run_lib.exists(begun):
      same_teacher.require(here, begun, frozen)
  setup = build.setup(
    config, source.info, source.train_size, mesh, teacher_group
  )
  build.check_networks(setup)
  build.check_optimizer(config, setup)
  length.require_begun(config, setup, workdir, steps)
  length.require_same_rates(config, setup, source, workdir, steps)
  return source, autotune.choose_mapping(setup), frozen


def _new_or_saved(
  config: RunConfig, setup: Setup, checkpoints: Checkpoints
) -> tuple[TrainState, int, dict[str, Any]]:
  """The newest saved state, its step, and what was not yet recorded by then.

  If nothing was saved, a new state: random, or filled from an earlier run.

  Raises:
    CheckpointError: if nothing that was saved can be used; to begin anew would
      erase it.
  """
  key = initial_key(config.seed)
  newest = checkpoints.latest_verified()
  if newest is not None or signals.agree(bool(checkpoints.steps())):
    abstract = state_lib.abstract(setup, key)
    state, step, extra = checkpoints.restore(abstract, newest)
    # Absent in runs of earlier releases.
    return state, step, extra.get("unrecorded", {})
  workdir = checkpoints.directory.parent
  if outcome.read(workdir) is not None:
    raise CheckpointError(
      f"{workdir} holds a finished run, and {checkpoints.directory} no "
      "checkpoint that counts (a step and its .manifest.json); restore them, "
      "or begin a new run in another --workdir."
    )
  state = state_lib.init(setup, key)
  if config.init_from:
    path = paths.anywhere(config.init_from)
    state = init_from.fill(setup, state, path, head=config.init_from_head)
  return state, 0, {}


def _export_and_plot(run: run_lib.Run) -> None:
  """Exports the leader and draws the curves.

  The run counts as finished without them. A failure is only reported;
  `python -m okd_jax export` and `plot` try again.
  """
  try:
    if run.config.deploy == "best":
      run = run_lib.run(run.workdir, run.setup.mesh)
    export.export(run, run.workdir / "leader")
  except Exception as error:
    _log.warning("The leader was not exported: %s", error)
  if jax.process_index() == 0:
    draw(run.workdir)


def draw(workdir: Path) -> None:
  """Draws the curves of a run, or of several seeds; reports if that fails."""
  try:
    # Takes seconds to import, and is not needed to train.
    from okd_jax.results import plots

    plots.plot(workdir)
  except Exception as error:
    _log.warning("No curves were drawn: %s", error)
