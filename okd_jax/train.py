"""The training loop: one function, read from top to bottom."""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import functools
import logging
from pathlib import Path
import statistics
import time
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from okd_jax.data import Source
from okd_jax.devices import mesh as mesh_lib, signals
from okd_jax.errors import ConfigError, Interrupted
from okd_jax.runs import (
  records as logs,
  run as reopen,
  summary,
  workdir as workdir_lib,
)
from okd_jax.runs.workdir import Workdir
from okd_jax.settings import build, config as config_lib, layout
from okd_jax.settings.schema import RunConfig
from okd_jax.training import (
  autotune,
  evaluate as evaluate_lib,
  finite,
  setup as recipe_lib,
  state as state_lib,
  step as steps,
)
from okd_jax.training.runner import Dispatch
from okd_jax.training.setup import Recipe
from okd_jax.training.state import TrainState
from okd_jax.weights import export, init_from, teacher

_log = logging.getLogger(__name__)


def train(
  config: RunConfig,
  workdir: Path,
  began: float | None = None,
  stop: signals.Stop | None = None,
) -> tuple[TrainState, dict[str, Any]]:
  """Trains a group, or goes on where an earlier call stopped.

  Args:
    config: see `okd_jax.settings.freeze.freeze`.
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
  return train_at_once([config], [workdir], began, stop)[0]


def train_at_once(
  configs: Sequence[RunConfig],
  workdirs: Sequence[Path],
  began: float | None = None,
  stop: signals.Stop | None = None,
) -> list[tuple[TrainState, dict[str, Any]]]:
  """Trains groups that differ in their seeds alone, in one program.

  Args:
    configs: of the runs, as for `train`.
    workdirs: one a run.
    began: as for `train`.
    stop: as for `train`.

  Returns:
    What `train` returns, for each.

  Raises:
    NotFiniteError: if any of the groups diverged.
    Exception: whatever else `train` raises.
  """
  began = time.monotonic() if began is None else began
  config = configs[0]
  for own, workdir in zip(configs, workdirs, strict=True):
    config_lib.check(own)
    if own.num_seeds != 1:
      raise ConfigError(
        f"config.num_seeds={own.num_seeds} must be 1 here, where one group "
        "is trained; call okd_jax.seeds.train for several."
      )
    workdir_lib.require_same_run(own, workdir)
    init_from.check(own, workdir)
  mesh = layout.mesh(config)
  source = build.source(config, mesh)
  taught_by, frozen = teacher.load(config, source.info, mesh)
  recipe = build.recipe(config, source.info, source.train_size, mesh, taught_by)
  build.check_input_size(recipe)
  recipe = autotune.settle(recipe)

  with contextlib.ExitStack() as stack:
    for workdir in workdirs:
      stack.enter_context(workdir_lib.lock(workdir))
    stop = stop or stack.enter_context(signals.Stop())
    runs = [
      workdir_lib.make(own, workdir, source)
      for own, workdir in zip(configs, workdirs, strict=True)
    ]
    summary.show_plan(config, recipe, source)
    with stop.busy("initialising"):
      states, step, extras = _initial_or_saved(recipe, runs)
    # Not before: a run that cannot start must not bind the work directory.
    for run in runs:
      reopen.remember(run.config, source, run.path)
    total = recipe.total_steps
    first_step = step
    dispatch = Dispatch(
      recipe,
      [run.source for run in runs],
      states,
      [recipe_lib.random_keys(run.config.seed)[1] for run in runs],
      frozen,
      # Absent in runs of earlier releases.
      unrecorded=[extra.get("unrecorded", {}) for extra in extras],
    )
    eval_fn = jax.jit(functools.partial(steps.eval_step, recipe))
    predict_fn = jax.jit(functools.partial(steps.predict, recipe))
    saved_at = time.monotonic()

    with contextlib.ExitStack() as records:
      writers = [
        records.enter_context(workdir_lib.writer(run, step)) for run in runs
      ]
      display = records.enter_context(
        logs.Display(total, recipe.steps_per_epoch, _title(runs))
      )
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
          states = tuple(
            _refresh(recipe, predict_fn, run.source, state, step)
            for run, state in zip(runs, states, strict=True)
          )
          last = _next_stop(recipe, config, step, dispatch.most_steps)
          states = dispatch.run(states, step, last)
        if step == first_step:
          display.note(
            f"First step after {time.monotonic() - began:.1f} s, of which "
            f"{dispatch.compile_seconds:.1f} s tracing and compiling."
          )
        step = last

        # Records.
        if _due(step, config.log_steps, total):
          measured = dispatch.measured()
          found = [finite.check_measures(step, each) for each in measured]
          for writer, record in zip(writers, found, strict=True):
            writer.write(step, record)
          shown = _shown(_mean(found))
          display.update(step, shown, dispatch.images_per_second)
        if _evaluation_due(recipe, step, config.eval_epochs):
          found = [
            evaluate_all(recipe, eval_fn, state, run.source)
            for run, state in zip(runs, states, strict=True)
          ]
          for writer, figures in zip(writers, found, strict=True):
            writer.write(step, figures, kind="eval")
          display.evaluated(step, _mean(found))

        # Checkpoints: last, so that what is saved was recorded.
        for run in runs:
          run.checkpoints.check()
        overdue = time.monotonic() - saved_at > config.checkpoint_secs
        stopping = stop.agreed()
        if stopping or step == total or signals.agree(overdue):
          for state in states:
            finite.check_state(step, state)
          # Saves of several runs at the same time would wait for each other.
          wait = stopping or step == total or len(runs) > 1
          unrecorded = dispatch.unrecorded
          for run, state, left in zip(runs, states, unrecorded, strict=True):
            extra = {"unrecorded": left}
            run.checkpoints.save(step, state, wait=wait, extra=extra)
          saved_at = time.monotonic()
        if stopping and step < total:
          raise Interrupted(
            f"Stopped after step {step} of {total}; the same command goes on."
          )
    results = []
    for run, state in zip(runs, states, strict=True):
      run.checkpoints.finish()
      concluded = summary.conclude(run.config, recipe, run.path, dispatch)
      _take_away(reopen.Run(run.path, run.config, recipe, state, step))
      results.append((state, concluded))
    return results


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


def _title(runs: Sequence[Workdir]) -> str:
  name = runs[0].config.method.name
  if len(runs) == 1:
    return name
  seeds = ", ".join(str(run.config.seed) for run in runs)
  return f"{name}, means of the seeds {seeds} at once"


def _mean(records: Sequence[Mapping[str, float]]) -> dict[str, float]:
  return {
    name: statistics.fmean(record[name] for record in records)
    for name in records[0]
  }


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
  recipe: Recipe, config: RunConfig, step: int, most_steps: int
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
    from okd_jax.results import plots

    plots.plot(run.workdir)
  except Exception as error:
    _log.warning("No curves were drawn: %s", error)


def _initial_or_saved(
  recipe: Recipe, runs: Sequence[Workdir]
) -> tuple[tuple[TrainState, ...], int, list[dict[str, Any]]]:
  """States of all runs after the newest step that all have saved.

  Returns:
    The states, the step, and the extra values saved with each of them.
  """
  step = min(run.checkpoints.latest_verified() or 0 for run in runs)
  states, extras = [], []
  for run in runs:
    key = recipe_lib.random_keys(run.config.seed)[0]
    if step:
      abstract = state_lib.abstract(recipe, key)
      state, _, extra = run.checkpoints.restore(abstract, step)
    else:
      extra = {}
      state = state_lib.init(recipe, key)
      if run.config.init_from:
        state = init_from.fill(recipe, state, Path(run.config.init_from))
    states.append(state)
    extras.append(extra)
  return tuple(states), step, extras
