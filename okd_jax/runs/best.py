"""The best step of a run, and whether to continue training."""

from collections.abc import Iterable, Mapping, Sequence
import math
from typing import Any

from okd_jax.errors import ConfigError
from okd_jax.settings.schema import RunConfig
from okd_jax.tasks.figure import Figure, LEADER, parse
from okd_jax.tasks.measure import Measure
from okd_jax.tasks.task import Task


def judge(config: RunConfig, task: Task, names: Iterable[str]) -> str | None:
  """The figure that decides which evaluation is the best.

  Args:
    config: configuration of the run, which may name the figure.
    task: task of the run.
    names: names of the figures that are measured.

  Returns:
    Its name; by default the leader's headline figure, on validation data if
    there are any and on test data otherwise; None without either.

  Raises:
    ConfigError: if the figure that is named is not measured, or if there is
      nothing to judge by and patience or the best step was asked for.
  """
  names = list(names)
  if config.best_by:
    measures = [measure.name for measure in task.measures]
    there = [n for n in names if "/" in n and parse(n).measure in measures]
    if config.best_by not in there:
      raise ConfigError(
        f"config.best_by='{config.best_by}' is not measured; {_listed(there)}."
        f"{_how_to_validate(config.best_by, there)}"
      )
    return config.best_by
  for split in ("validation", "test"):
    name = Figure(split, LEADER, False, task.headline(task.info).name).name
    if name in names:
      return name
  for key, value, idle in (
    ("patience", config.patience, 0),
    ("deploy", config.deploy, "last"),
  ):
    if value != idle:
      raise ConfigError(
        f"config.{key}={value!r} must be {idle!r}: without validation or test "
        "data no evaluation can be judged; leave it out, or hold data out with "
        "config.data.validation."
      )
  return None


def _how_to_validate(name: str, there: list[str]) -> str:
  split = "validation/"
  if not name.startswith(split) or any(n.startswith(split) for n in there):
    return ""
  return " config.data.validation holds data out to choose by."


def _listed(names: list[str]) -> str:
  """What is measured, for people: a peer more would be a line more."""
  if not names:
    return "without data to evaluate on nothing is"
  found = [parse(name) for name in names]
  parts = (
    [figure.split for figure in found],
    [figure.prediction for figure in found],
    [figure.measure for figure in found],
  )
  splits, who, measures = (", ".join(dict.fromkeys(part)) for part in parts)
  return (
    f"it must be SPLIT/WHO/MEASURE with SPLIT of {splits}, WHO of {who}, and "
    f"MEASURE of {measures}"
  )


def measure(task: Task | type[Task], name: str) -> Measure:
  """What a figure of a task measures."""
  found = parse(name).measure
  return next(each for each in task.measures if each.name == found)


def merit(
  task: Task | type[Task], record: Mapping[str, Any], name: str
) -> float:
  """How good an evaluation is by a figure: higher is better."""
  return measure(task, name).merit(record[name])


class Best:
  """Follows the evaluations of a run.

  Attributes:
    name: the figure that decides; None before the first evaluation.
  """

  def __init__(
    self,
    config: RunConfig,
    task: Task,
    records: Sequence[Mapping[str, Any]],
    step: int | None = None,
  ):
    """Continues from the records of a run.

    A run that was interrupted before it ended, and now has less patience, goes
    on to its next evaluation: only there is everything recorded and saved.

    Args:
      config: configuration of the run.
      task: task of the run.
      records: records of the run so far.
      step: the step after which training goes on, if it does.
    """
    self._config, self._task = config, task
    self._most: tuple[float, int] | None = None
    self._since = 0
    self.name: str | None = None
    for record in records:
      if record["kind"] == "eval":
        self.evaluated(record)
    last = {r["kind"] for r in records if r["step"] == step}
    if step is not None and self.exhausted and last != {"train", "eval"}:
      self._since = config.patience - 1

  def evaluated(self, record: Mapping[str, Any]) -> None:
    """Takes the figures of an evaluation by name, and its "step"."""
    self.name = judge(self._config, self._task, record)
    if self.name is None:
      return
    now = merit(self._task, record, self.name)
    self._since += 1
    if not math.isfinite(now):
      return
    most = -math.inf if self._most is None else self._most[0]
    if now > most:
      self._since = 0
    # Of equal ones the last is the best, as in the summary.
    if now >= most:
      self._most = now, record["step"]

  def score_at(self, step: int) -> float | None:
    """The score of a step that is to be kept as the best; None for others."""
    if self._config.deploy == "last" or self._most is None:
      return None
    merit, best = self._most
    return merit if best == step else None

  @property
  def exhausted(self) -> bool:
    """Whether the run is to end, as it did not improve for too long."""
    return 0 < self._config.patience <= self._since

  @property
  def why(self) -> str:
    """The figure that did not improve, and for how long."""
    return f"{self._since} evaluations in a row without a better {self.name}"
