"""Writes and shows the figures of a run while it trains."""

from collections.abc import Iterator, Mapping
import contextlib
from typing import Any

import jax

from okd_jax.runs import records, trackers
from okd_jax.runs.best import Best
from okd_jax.runs.display import Display
from okd_jax.settings.schema import RunConfig
from okd_jax.storage.paths import Path
from okd_jax.tasks.figure import Figure, parse_element
from okd_jax.training import finite
from okd_jax.training.runner import Runner
from okd_jax.training.setup import Setup


class Recorder:
  """Writes and shows what is measured."""

  def __init__(self, writer: records.Writer, display: Display):
    self._writer = writer
    self._display = display
    self._started = False

  def started(self, seconds: float, runner: Runner) -> None:
    """Reports once how long it took until the first step was done."""
    if self._started:
      return
    self._started = True
    self._display.note(
      f"First step after {seconds:.1f} s, of which "
      f"{runner.compile_seconds:.1f} s tracing and compiling."
    )

  def trained(self, step: int, runner: Runner) -> None:
    """Records what the runner has measured since it was asked last.

    Raises:
      NotFiniteError: if training diverged.
    """
    record = finite.check_measures(step, runner.measured())
    self._writer.write(step, record)
    # What fits on a line: the terms, without the method's summaries.
    line = {n: value for n, value in record.items() if not parse_element(n)[1]}
    self._display.update(step, line, runner.images_per_second)

  def flush(self) -> None:
    """Makes records as safe as the checkpoint that is to be written next."""
    self._writer.flush()

  def evaluated(
    self, step: int, figures: Mapping[Figure, float]
  ) -> dict[str, Any]:
    """Records an evaluation; returns its figures by name, and the step."""
    named = {figure.name: value for figure, value in figures.items()}
    self._writer.write(step, named, kind="eval")
    self._display.evaluated(step, figures)
    return named | {"step": step}


@contextlib.contextmanager
def recording(
  config: RunConfig, setup: Setup, workdir: Path, step: int, best: Best
) -> Iterator[Recorder]:
  """Opens the records of a run that begins, or continues after a step.

  Args:
    config: configuration of the run.
    setup: setup of the run.
    workdir: work directory of the run.
    step: number of finished training steps.
    best: follows the evaluations, and decides whether the run has ended.

  Yields:
    The recorder; if there are several processes, only the first one writes.
  """
  total = setup.total_steps
  display = Display(
    setup.clock,
    config.method.name,
    setup.task.headline(setup.task.info),
    setup.task.in_step(setup.task.info),
  )
  with _writer(config, workdir, step) as writer, display:
    if step == total:
      display.note(f"This run is finished: {total} steps of {total}.")
    elif best.exhausted:
      display.note(
        f"This run has ended after step {step} of {total}: {best.why}. Raise "
        "config.patience to go on."
      )
    elif step:
      display.note(f"Resuming after step {step} of {total}.")
    ended = best.exhausted
    yield Recorder(writer, display)
    if best.exhausted and not ended:
      display.note(f"This run ends early: {best.why}.")


@contextlib.contextmanager
def _writer(config: RunConfig, workdir: Path, step: int) -> Iterator[Any]:
  if jax.process_index() != 0:
    yield records.NoWriter()
    return
  with (
    trackers.started(config, workdir) as tracking,
    records.Writer(
      workdir, resume_step=step or None, trackers=tracking
    ) as writer,
  ):
    yield writer
