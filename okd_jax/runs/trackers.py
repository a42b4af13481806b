"""Experiment trackers, imported only when a run asks for them."""

from collections.abc import Callable, Iterator
import contextlib
import importlib
import logging
import pathlib
import secrets
from typing import Any

import jax

from okd_jax.runs.records import Tracker
from okd_jax.settings import freeze
from okd_jax.settings.schema import RunConfig
from okd_jax.storage import files
from okd_jax.storage.paths import Path

_log = logging.getLogger(__name__)

_PROJECT = "okd_jax"
# The tag by which a run is found again.
_TAG = "okd_jax.id"


@contextlib.contextmanager
def started(config: RunConfig, workdir: Path) -> Iterator[list[Tracker]]:
  """Starts the trackers that `config.trackers` names, and ends them.

  A tracker that is not installed or cannot be started is reported once and left
  out; the run does not depend on it. Only the first process uses trackers.

  Args:
    config: configuration of the run, which is logged as its settings.
    workdir: work directory; its name is the name of the run.

  Yields:
    The trackers that were started, for `okd_jax.runs.records.Writer`.
  """
  with contextlib.ExitStack() as stack:
    found: list[Tracker] = []
    for name in config.trackers if jax.process_index() == 0 else ():
      try:
        tracker = TRACKERS[name](config, workdir)
      except Exception as error:  # of any kind: this is somebody else's code
        _log.warning("%s does not track this run: %s", name, error)
      else:
        found.append(tracker)
        stack.callback(_end, name, tracker)
    yield found


class _Wandb:
  """Weights & Biases."""

  def __init__(self, config: RunConfig, workdir: Path):
    wandb: Any = importlib.import_module("wandb")
    self._run = wandb.init(
      project=_PROJECT,
      name=workdir.name,
      id=_identity(workdir, "wandb"),
      resume="allow",
      # It writes files of its own, and cannot do so in a bucket.
      dir=str(workdir) if isinstance(workdir, pathlib.Path) else None,
      config=freeze.flatten(config),
    )

  def log(self, step: int, metrics: dict[str, float]) -> None:
    self._run.log(metrics, step=step)

  def end(self) -> None:
    self._run.finish()


class _Mlflow:
  """MLflow."""

  def __init__(self, config: RunConfig, workdir: Path):
    mlflow: Any = importlib.import_module("mlflow")
    self._mlflow = mlflow
    mlflow.set_experiment(_PROJECT)
    identity = _identity(workdir, "mlflow")
    found = mlflow.search_runs(
      experiment_names=[_PROJECT],
      filter_string=f"tags.`{_TAG}` = '{identity}'",
      max_results=1,
      output_format="list",
    )
    settings = freeze.flatten(config)
    if not found:
      mlflow.start_run(run_name=workdir.name, tags={_TAG: identity})
      mlflow.log_params(settings)
      return
    mlflow.start_run(run_id=found[0].info.run_id)
    # Parameters of MLflow stay as they are; extra_epochs, say, may change.
    said = found[0].data.params | found[0].data.tags
    new = {k: v for k, v in settings.items() if said.get(k) != str(v)}
    mlflow.set_tags(new)

  def log(self, step: int, metrics: dict[str, float]) -> None:
    self._mlflow.log_metrics(metrics, step=step)

  def end(self) -> None:
    self._mlflow.end_run()


def _identity(workdir: Path, tracker: str) -> str:
  """An identity of the run in a folder, unique and the same when resumed."""
  path = workdir / f"{tracker}_id.txt"
  try:
    return files.text(path).strip()
  except FileNotFoundError:
    made = secrets.token_hex(8)
    files.write(path, made + "\n")
    return made


TRACKERS: dict[str, Callable[[RunConfig, Path], Any]] = {
  "wandb": _Wandb,
  "mlflow": _Mlflow,
}


def _end(name: str, tracker: Any) -> None:
  try:
    tracker.end()
  except Exception as error:
    _log.warning("%s could not be ended: %s", name, error)
