"""Searches for good values of settings: a study by Optuna, run by run.

Every trial is an ordinary run in a folder of its own. The state of Optuna is in
the file `study.journal` beside these folders. Trials are judged only by a
figure on validation data.
"""

from collections.abc import Mapping
import dataclasses
import json
import logging
import pathlib
from typing import Any

import jax
import optuna
from optuna.storages import journal, JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from okd_jax import tasks, train as train_lib
from okd_jax.devices import signals
from okd_jax.errors import (
  ConfigError,
  DataError,
  Interrupted,
  LeaderError,
  NotFiniteError,
  WeightsError,
)
from okd_jax.runs import best, workdir as workdir_lib
from okd_jax.search_space import settings, Space
from okd_jax.settings import build, config as config_lib, freeze, layout
from okd_jax.settings.schema import RunConfig
from okd_jax.storage.paths import Path
from okd_jax.tasks.figure import Figure, LEADER, parse
from okd_jax.tasks.measure import Measure
from okd_jax.tasks.task import Task

_log = logging.getLogger(__name__)
_OF_FILES = ("data.", "batch_size", "init_from", "teacher", "peers.")
_LENGTH = ("epochs", "extra_epochs", "eval_epochs", "patience")


@dataclasses.dataclass(frozen=True)
class Judge:
  """What a trial is judged by.

  Attributes:
    task: task of the runs.
    name: name of a figure on validation data.
  """

  task: type[Task]
  name: str

  @property
  def measure(self) -> Measure:
    """What the figure measures."""
    return best.measure(self.task, self.name)

  def merit(self, record: Mapping[str, Any]) -> float:
    """The value of an evaluation for the search; higher is better."""
    return best.merit(self.task, record, self.name)

  def figure(self, merit: float) -> float:
    """The figure that belongs to a merit."""
    return self.measure.merit(merit)  # which keeps or turns its sign


def search(
  config: RunConfig, looked: Space, trials: int, workdir: Path
) -> tuple[Judge, list[FrozenTrial]]:
  """Runs the trials of a study that are left.

  Args:
    config: configuration of the run whose settings are searched.
    looked: the values to search, see `okd_jax.search_space`.
    trials: total number of trials, including earlier ones.
    workdir: work directory of the study; trial k is the run in `trial<k>`.

  Returns:
    What the trials were judged by, and the trials so far.

  Raises:
    ConfigError: if there are no trials or no validation data, if the folder
      has another study, or if the values of a trial do not fit before any
      other trial was trained; the same command then goes on with the next.
    Interrupted: after a signal; the same command continues.
  """
  config_lib.check(config)
  if config.num_seeds != 1 or jax.process_count() > 1:
    raise ConfigError(
      "a search trains one seed at a time, on one machine; leave "
      "config.num_seeds at 1."
    )
  if trials < 1:
    raise ConfigError(f"--trials={trials} must be at least 1.")
  if not isinstance(workdir, pathlib.Path):
    raise ConfigError(
      f"--workdir={workdir}: a search needs a folder on this machine."
    )
  judge = _judge(config)
  workdir.mkdir(parents=True, exist_ok=True)
  with workdir_lib.lock(workdir), signals.Stop() as stop:
    study = _open(config, looked, workdir)
    while trial := _next(study, config, looked, trials):
      if stop.requested:
        raise Interrupted(
          f"Stopped before trial {trial.number} of {trials}; the same command "
          "goes on."
        )
      shown = ", ".join(f"{k}={v}" for k, v in settings(trial).items())
      print(f"\nTrial {trial.number} of {trials}: {shown}", flush=True)
      _run(study, trial, config, workdir, judge, stop)
    return judge, study.get_trials()


def _judge(config: RunConfig) -> Judge:
  source = build.source(config, layout.mesh(config))
  task = tasks.load(source.info.task)
  headline = task.headline(source.info).name
  leader = Figure("validation", LEADER, False, headline).name
  if config.best_by and parse(config.best_by).split != "validation":
    raise ConfigError(
      f"config.best_by='{config.best_by}' would choose by test data; name a "
      f"figure on validation data, such as {leader}."
    )
  if not len(source.positions["validation"]):
    raise ConfigError(
      f"config.data.validation={config.data.validation:g}: "
      f"{config.data.name} has no validation data to choose by, and test data "
      "must not choose; --config.data.validation=0.1 holds out a tenth of the "
      "training images."
    )
  judge = Judge(task, config.best_by or leader)
  measures = [measure.name for measure in task.measures_of(source.info)]
  if parse(judge.name).measure not in measures:
    raise ConfigError(
      f"config.best_by='{judge.name}' is not measured on {config.data.name}; "
      f"name one of {', '.join(measures)}, such as {leader}."
    )
  return judge


class _NoLock(journal.JournalFileOpenLock):
  """In place of a lock of Optuna, which a killed process would leave behind.

  The lock of the work directory is held.
  """

  def acquire(self) -> bool:
    return True

  def release(self) -> None:
    pass


def _storage(path: pathlib.Path) -> JournalStorage:
  """Opens the file of a study, without a line that a kill has left half."""
  if path.exists():
    with path.open("r+b") as file:
      file.truncate(file.read().rfind(b"\n") + 1)
  try:
    return JournalStorage(
      journal.JournalFileBackend(str(path), _NoLock(str(path)))
    )
  except (ValueError, LookupError) as error:
    raise ConfigError(
      f"{path} is damaged ({error!r}); search in another --workdir."
    ) from error


def _open(config: RunConfig, looked: Space, workdir: Path) -> optuna.Study:
  optuna.logging.set_verbosity(optuna.logging.ERROR)
  study = optuna.create_study(
    storage=_storage(workdir / "study.journal"),
    study_name="search",
    direction="maximize",
    load_if_exists=True,
    pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
  )
  about = {
    "config": ("recipe", config_lib.digest(config)),
    "searched": (
      "space",
      json.dumps({k: repr(v) for k, v in sorted(looked.items())}),
    ),
    # A run may be resumed with others, but such trials do not compare.
    "length": (
      "length",
      json.dumps({name: getattr(config, name) for name in _LENGTH}),
    ),
  }
  for name, (what, value) in about.items():
    if study.user_attrs.setdefault(name, value) != value:
      raise ConfigError(
        f"{workdir} holds a search of another {what}; choose another "
        "--workdir, or take the changes back."
      )
    study.set_user_attr(name, value)
  return study


def _next(
  study: optuna.Study, config: RunConfig, looked: Space, trials: int
) -> Trial | None:
  """The trial that was interrupted, or a new one; None if all are done."""
  begun = study.get_trials(states=(TrialState.RUNNING,))
  number = begun[0].number if begun else len(study.get_trials())
  if number >= trials:
    return None
  # Made anew for each trial, so that a continued search makes the same choices.
  seed = (config.seed + 1_000_003 * number) % 2**32
  study.sampler = optuna.samplers.TPESampler(seed=seed)
  if not begun:
    return study.ask(looked)
  trial = Trial(study, begun[0]._trial_id)
  for key, values in looked.items():
    # Those that the process was killed before drawing.
    trial._suggest(key, values)
  return trial


def _folder(workdir: Path, trial: Trial | FrozenTrial) -> Path:
  return workdir / f"trial{trial.number}"


def _on_same_data(
  study: optuna.Study, config: RunConfig, made: RunConfig, workdir: Path
) -> Path | None:
  """The folder of a trial that must have had the data and teacher of a new one.

  Args:
    study: the study.
    config: configuration whose settings are searched.
    made: configuration of the new trial.
    workdir: work directory of the study.
  """
  for done in study.get_trials(states=(TrialState.COMPLETE,)):
    other = freeze.replace(config, settings(done))
    if (other.data, other.teacher) == (made.data, made.teacher):
      return _folder(workdir, done)
  return None


def _run(
  study: optuna.Study,
  trial: Trial,
  config: RunConfig,
  workdir: Path,
  judge: Judge,
  stop: signals.Stop,
) -> None:
  known = study.get_trials()[trial.number].intermediate_values
  made = freeze.replace(config, settings(trial))
  like = _on_same_data(study, config, made, workdir)

  def watch(record: Mapping[str, Any]) -> None:
    """Ends a run that is worse than most other runs were at this epoch."""
    epoch = record["epoch"]
    if epoch not in known:  # or evaluated again after an interruption
      trial.report(judge.merit(record), epoch)
    # Also if known: the interruption may have come before the answer. Not at
    # the end, where nothing would be saved by it.
    if not record["ended"] and trial.should_prune():
      raise optuna.TrialPruned

  try:
    _, summary = train_lib.train(
      made, _folder(workdir, trial), stop=stop, watch=watch, like=like
    )
  except optuna.TrialPruned:
    print("Pruned: worse than most of the others at this epoch.", flush=True)
    study.tell(trial, state=TrialState.PRUNED)
  except (ConfigError, DataError, LeaderError, WeightsError) as error:
    if not isinstance(error, ConfigError) and not _choose_files(trial):
      raise  # it is not for the values; what is wrong can be mended
    study.tell(trial, state=TrialState.FAIL)
    # Where none has been trained yet, none may be possible.
    if not study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)):
      raise
    _log.error("Trial %d has values that do not fit: %s", trial.number, error)
  except NotFiniteError as error:
    _log.error("Trial %d diverged: %s", trial.number, error)
    study.tell(trial, state=TrialState.FAIL)
  else:
    study.tell(trial, judge.merit(summary[made.deploy]))


def _choose_files(trial: Trial) -> bool:
  """Whether values of a trial say which data or weights are read, and how."""
  return any(key.startswith(_OF_FILES) for key in trial.params)
