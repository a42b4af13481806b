"""The training loop: one function, read from top to bottom."""

from collections.abc import Mapping
import contextlib
import dataclasses
import functools
import logging
from pathlib import Path
import time
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from okd_jax import (
  autotune,
  build,
  config as config_lib,
  evaluate as evaluate_lib,
  export,
  finite,
  init_from,
  layout,
  logs,
  mesh as mesh_lib,
  recipe as recipe_lib,
  reopen,
  signals,
  state as state_lib,
  steps,
  summary,
  teacher,
  trackers,
)
from okd_jax.checkpoint import Checkpoints
from okd_jax.data import Source
from okd_jax.dispatch import Dispatch
from okd_jax.lock import RunLock
from okd_jax.recipe import Recipe
from okd_jax.state import TrainState

_log = logging.getLogger(__name__)


class Interrupted(Exception):
  """The run was asked to stop and has saved its state."""


def train(
  config: ConfigDict,
  workdir: Path,
  began: float | None = None,
  stop: signals.Stop | None = None,
) -> tuple[TrainState, dict[str, Any]]:
  """Trains a group, or goes on where an earlier call stopped.

  Args:
    config: every key of `configs/common.py`, with a method.
    workdir: gets config.json, metrics, checkpoints and summary.json.
    began: `time.monotonic()` at the start of the program, for the time to the
      first step; now by default.
    stop: entered already, where signals count outside this run too.

  Returns:
    The final state and the summary.

  Raises:
    ConfigError: if the configuration cannot be run, or not in this workdir.
    DataError: if data are missing or damaged.
    NotFiniteError: if training diverged; the last good state stays saved.
    Interrupted: after a signal; the last finished step is saved.
  """
  began = time.monotonic() if began is None else began
  with config_lib.refusing():
    config_lib.check(config)
    _require_same_run(config, workdir)
    init_from.check(config, workdir)
    mesh = layout.mesh(config)
    source = build.source(config, mesh)
    taught_by, frozen = teacher.load(config, source.info, mesh)
    recipe = build.recipe(
      config, source.info, source.train_size, mesh, taught_by
    )
    build.check_input_size(recipe)
    recipe = autotune.settle(recipe)

  asked = contextlib.nullcontext(stop) if stop else signals.Stop()
  with _lock(workdir), asked as stop:
    summary.show_plan(config, recipe, source)
    checkpoints = Checkpoints(
      workdir / "checkpoints", config_hash=config_lib.digest(config)
    )
    init_key, step_key = recipe_lib.random_keys(config.seed)
    with stop.busy("initialising"):
      state, step = _initial_or_saved(
        recipe, checkpoints, init_key, config.init_from
      )
    # Not before: a run that cannot start must not bind the work directory.
    reopen.remember(config, source, workdir)
    total = recipe.total_steps
    first_step = step
    dispatch = Dispatch(recipe, source, state, step_key, frozen)
    eval_fn = jax.jit(functools.partial(steps.eval_step, recipe))
    predict_fn = jax.jit(functools.partial(steps.predict, recipe))
    saved_at = time.monotonic()

    with (
      trackers.started(config, workdir) as tracking,
      _writer(workdir, step, tracking) as writer,
      logs.Display(
        total, recipe.steps_per_epoch, config.method.name
      ) as display,
    ):
      if step == total:
        display.note(f"This run is finished: {total} steps of {total}.")
      elif step:
        display.note(f"Resuming after step {step} of {total}.")
      while step < total:
        # Training, up to the next step after which something is due.
        with (
          stop.busy("compiling")
          if step == first_step
          else contextlib.nullcontext()
        ):
          state = _refresh(recipe, predict_fn, source, state, step)
          last = _next_stop(recipe, config, step, dispatch.most_steps)
          state, measured = dispatch.run(state, step, last)
        if step == first_step:
          display.note(
            f"First step after {time.monotonic() - began:.1f} s, of which "
            f"{dispatch.compile_seconds:.1f} s tracing and compiling."
          )
        step = last

        # Records.
        if _due(step, config.log_steps, total):
          record = finite.check_measures(step, measured)
          writer.write(step, record)
          display.update(step, _shown(record), dispatch.images_per_second)
        if _evaluation_due(recipe, step, config.eval_epochs):
          figures = evaluate_all(recipe, eval_fn, state, source)
          writer.write(step, figures, kind="eval")
          display.evaluated(step, figures)

        # Checkpoints: last, so that what is saved was recorded.
        checkpoints.check()
        overdue = time.monotonic() - saved_at > config.checkpoint_secs
        stopping = stop.agreed()
        if stopping or step == total or signals.agree(overdue):
          finite.check_state(step, state)
          checkpoints.save(step, state, wait=stopping or step == total)
          saved_at = time.monotonic()
        if stopping and step < total:
          raise Interrupted(
            f"Stopped after step {step} of {total}; the same command goes on."
          )
    checkpoints.finish()
    concluded = summary.conclude(config, recipe, workdir, dispatch)
    _take_away(reopen.Run(workdir, config, recipe, state, step))
    return state, concluded


def evaluate_all(
  recipe: Recipe,
  eval_fn: evaluate_lib.EvalFn,
  state: TrainState,
  source: Source,
) -> dict[str, float]:
  """Figures for every split there is, named "test/leader/accuracy"."""
  figures: dict[str, float] = {}
  for split in ("test", "validation"):
    if not len(source.positions[split]):
      continue
    batches = functools.partial(source.evaluation, split)
    measured = evaluate_lib.evaluate(recipe, eval_fn, state, batches)
    figures |= {f"{split}/{name}": value for name, value in measured.items()}
  return figures


def _lock(workdir: Path) -> contextlib.AbstractContextManager[Any]:
  # The processes of one run share the folder; the first one speaks for all.
  first = jax.process_index() == 0
  return RunLock(workdir) if first else contextlib.nullcontext()


def _writer(
  workdir: Path, step: int, tracking: list[logs.Tracker]
) -> logs.Writer:
  if jax.process_index() != 0:
    return logs.NoWriter()
  return logs.Writer(workdir, resume_step=step or None, trackers=tracking)


def _require_same_run(config: ConfigDict, workdir: Path) -> None:
  saved = reopen.saved_config(workdir)
  if saved is not None:
    config_lib.require_resumable(config, saved)


def _take_away(run: reopen.Run) -> None:
  """Exports the leader and draws the curves.

  A finished run stands without them, so no failure here is one of training;
  `python -m okd_jax export` and `plot` try again.
  """
  try:
    export.export(run, run.workdir / "leader")
  except Exception as error:
    _log.warning("The leader was not exported: %s", error)
  if jax.process_index() != 0:
    return
  try:
    # Takes seconds to import, and is not needed to train.
    from okd_jax import plots

    plots.plot(run.workdir)
  except Exception as error:
    _log.warning("No curves were drawn: %s", error)


def _initial_or_saved(
  recipe: Recipe, checkpoints: Checkpoints, key: jax.Array, trained: str
) -> tuple[TrainState, int]:
  if checkpoints.latest_verified() is None:
    state = state_lib.init(recipe, key)
    if trained:
      state = init_from.fill(recipe, state, Path(trained))
    return state, 0
  state, step, _ = checkpoints.restore(state_lib.abstract(recipe, key))
  return state, step


def _shown(record: Mapping[str, float]) -> dict[str, float]:
  """What fits on a line: the terms, without the method's summaries."""
  return {name: value for name, value in record.items() if "/" not in name}


def _due(step: int, every: int, total: int) -> bool:
  return step % every == 0 or step == total


def _epochs_done(recipe: Recipe, step: int) -> int:
  return step * recipe.batch_size // recipe.train_size


def _evaluation_due(recipe: Recipe, step: int, every: int) -> bool:
  done = _epochs_done(recipe, step)
  if step == recipe.total_steps:
    return True
  return done > _epochs_done(recipe, step - 1) and done % every == 0


def _next_stop(
  recipe: Recipe, config: ConfigDict, step: int, most_steps: int
) -> int:
  """The last step to run before something else has to be done."""
  epoch_end = recipe.first_step(_epochs_done(recipe, step) + 1)
  log = (step // config.log_steps + 1) * config.log_steps
  return min(epoch_end, log, step + most_steps, recipe.total_steps)


def _refresh(
  recipe: Recipe,
  predict_fn: evaluate_lib.PredictFn,
  source: Source,
  state: TrainState,
  step: int,
) -> TrainState:
  """Lets the method look at the held-out data at the start of an epoch."""
  epoch = _epochs_done(recipe, step)
  if not recipe.method.needs.held_out or epoch == 0:
    return state
  if step != recipe.first_step(epoch):
    return state
  logits, labels = evaluate_lib.held_out_logits(predict_fn, state, source)
  everywhere = NamedSharding(recipe.mesh, PartitionSpec())
  renewed = recipe.method.refresh(logits, labels)
  renewed = mesh_lib.place(renewed, jax.tree.map(lambda _: everywhere, renewed))
  memory = state.memory["method"] | renewed
  return dataclasses.replace(state, memory=state.memory | {"method": memory})
