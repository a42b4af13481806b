"""What the runs of a comparison found, over seeds."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import statistics
from typing import Any

import numpy as np

from okd_jax import tasks
from okd_jax.core import Method
from okd_jax.errors import ConfigError
from okd_jax.results import findings, grid
from okd_jax.results.grid import BASELINE, Cell, KD_TEACHER
from okd_jax.runs import outcome, records, run as run_lib
from okd_jax.runs.spread import deviation
from okd_jax.settings import config as config_lib, freeze
from okd_jax.storage import bucket, files
from okd_jax.storage.paths import Path
from okd_jax.tasks.measure import Measure

CONFIG = "comparison.json"
PUBLISHED = "published.json"
ERROR = "error.txt"

# Who stands in the tables: keys of `Row.headlines`, and headings.
WHO = {
  "deployed": "deployed network",
  "peers_mean": "mean of peers",
  "ensemble": "ensemble",
  "group": "group prediction",
}


@dataclasses.dataclass(frozen=True)
class Spread:
  """Mean and, of two or more values, sample standard deviation."""

  mean: float
  std: float | None

  def __str__(self) -> str:
    text = f"{self.mean:.2f}"
    return text if self.std is None else f"{text} ± {self.std:.2f}"


@dataclasses.dataclass(frozen=True)
class Row:
  """One method on one network.

  Attributes:
    net: name of the network.
    name: what stands in tables: the method, and the values that it has.
    method: a method, `baseline` or `kd_teacher`.
    values: of the keys that the comparison varies.
    data: name of the data set.
    kind: replicas or branches.
    num_peers: P.
    nets: the networks that it trains, as `config.peers.net` names them.
    epochs: of each run, those that were added included.
    finished: number of finished runs.
    planned: number of runs.
    measure: the headline of the task.
    runs: its values for people in finished runs, by seed; then by a key of
      `WHO` and "last", "best" or "validation": on test data at the last epoch,
      or at the best one of this very figure, on validation data if there are
      any and on test data otherwise; or on validation data at the last epoch.
    alike: of finished runs, by seed, the values at the last epoch of the peers
      that differ in nothing but their first weights and their place.
    seconds: of training an image, averaged over runs; None if not measured.
    diversity: for each finished run its epochs and the values at them.
    failures: why runs failed, by the names of their cells.
    compared: the key of `WHO` that stands beside published figures.
    compared_as: what that figure is.
  """

  net: str
  name: str
  method: str
  values: Mapping[str, Any]
  data: str
  kind: str
  num_peers: int
  nets: str
  epochs: int
  finished: int
  planned: int
  measure: Measure
  runs: Mapping[int, Mapping[tuple[str, str], float]]
  alike: Mapping[int, Sequence[float]]
  seconds: float | None
  diversity: Sequence[tuple[np.ndarray, np.ndarray]]
  failures: Mapping[str, str]
  compared: str
  compared_as: str

  @property
  def headlines(self) -> dict[tuple[str, str], Spread]:
    """The values of `runs`, over runs."""
    keys = dict.fromkeys(key for run in self.runs.values() for key in run)
    return {key: spread(list(self.by_seed(*key).values())) for key in keys}

  def by_seed(self, who: str, when: str) -> dict[int, float]:
    """One of the values of every run that has it."""
    return {
      seed: run[who, when]
      for seed, run in self.runs.items()
      if (who, when) in run
    }


def exists(workdir: Path) -> bool:
  """Whether a folder is that of a comparison."""
  with bucket.reached(workdir):
    return (workdir / CONFIG).exists()


def reason(error: str) -> str:
  """The message in a file of a failure, before where it came from."""
  return error.partition("\n\n")[0]


def failure(cell: Cell) -> str:
  """What was written when a cell failed; empty if it has not."""
  try:
    return files.text(cell.workdir / ERROR)
  except (FileNotFoundError, NotADirectoryError):
    return ""


def finished(cell: Cell) -> dict[str, Any] | None:
  """The summary of a cell that is complete; None if there is none.

  Raises:
    ConfigError: if its folder holds a run of another configuration.
  """
  return outcome.finished(cell.config, cell.workdir)


def is_finished(cell: Cell) -> bool:
  """Whether a cell is complete, as this comparison has it."""
  try:
    return finished(cell) is not None
  except ConfigError:
    return False  # whoever tries to train it says so


def begun(workdir: Path) -> list[Path]:
  """Of a comparison the rows that have a run: the folders of their seeds."""
  paths = [
    cell.workdir.parent
    for cell in _cells(workdir)
    if (cell.workdir / "data.json").exists()
  ]
  return list(dict.fromkeys(paths))


def read(workdir: Path) -> list[Row]:
  """Reads what there is of a comparison, finished or not."""
  cells: dict[tuple[str, str], list[Cell]] = {}
  for cell in _cells(workdir):
    cells.setdefault((cell.net, cell.row), []).append(cell)
  return [_row(group) for group in cells.values()]


def counterpart(row: Row, rows: Sequence[Row], method: str) -> Row | None:
  """The row of a method with those of a row's values that concern it.

  Args:
    row: of interest.
    rows: of the same network.
    method: of the row to find.
  """
  alike = (r for r in rows if r.values.items() <= row.values.items())
  return next((r for r in alike if r.method == method), None)


def times(row: Row, rows: Sequence[Row]) -> tuple[float | None, float | None]:
  """Seconds an image relative to one network and to P independent ones.

  Args:
    row: of interest.
    rows: of the same network.
  """

  def relative_to(other: Row | None) -> float | None:
    if other is None or other.seconds is None or row.seconds is None:
      return None
    return row.seconds / other.seconds

  several = counterpart(row, rows, "independent")
  if several and (several.kind, several.num_peers) != (
    "replicas",
    row.num_peers,
  ):
    several = None
  return relative_to(counterpart(row, rows, BASELINE)), relative_to(several)


def _cells(workdir: Path) -> list[Cell]:
  path = workdir / CONFIG
  try:
    saved = json.loads(files.text(path))
    config = freeze.freeze_comparison(
      saved | {"base": config_lib.of_today(saved["base"])}
    )
  except ConfigError:
    raise
  except (LookupError, TypeError, ValueError) as error:
    raise ConfigError(
      f"{path} is damaged ({error!r}); run the command of the comparison again "
      "to write it anew."
    ) from error
  return grid.cells(config, workdir)


def _row(cells: Sequence[Cell]) -> Row:
  config = cells[0].config
  method = config_lib.make_method(config)
  measure = _measure(cells, method)
  compared, compared_as = _compared(cells[0].method, method)
  runs, alike = {}, {}
  speeds, diversity, failures = [], [], {}
  for cell in cells:
    summary, why = _outcome(cell)
    if why:
      failures[cell.name] = why
    elif summary is not None:
      evaluations = records.read_evaluations(cell.workdir)
      if not evaluations:
        failures[cell.name] = "its metrics.jsonl has no evaluation."
        continue
      if "images_per_second" in summary:
        speeds.append(1 / summary["images_per_second"])
      runs[cell.seed] = findings.headlines(evaluations, measure)
      if equal := findings.alike(evaluations[-1][1], config, method, measure):
        alike[cell.seed] = equal
      tested = any(figure.split == "test" for figure in evaluations[-1][1])
      if tested and config.peers.num_peers > 1:
        epochs_a_step = config.batch_size / run_lib.about(cell.workdir)[2]
        diversity.append(findings.diversity(evaluations, epochs_a_step))
  return Row(
    net=cells[0].net,
    name=cells[0].row,
    method=cells[0].method,
    values=cells[0].values,
    data=config.data.name,
    kind=config.peers.kind,
    num_peers=config.peers.num_peers,
    nets=config.peers.net,
    epochs=config.epochs + config.extra_epochs,
    finished=len(runs),
    planned=len(cells),
    measure=measure,
    runs=runs,
    alike=alike,
    seconds=statistics.mean(speeds) if speeds else None,
    diversity=diversity,
    failures=failures,
    compared=compared,
    compared_as=compared_as,
  )


def _outcome(cell: Cell) -> tuple[dict[str, Any] | None, str]:
  """The summary of a finished cell, and why it has failed if it has."""
  if why := failure(cell):
    return None, reason(why)
  try:
    return finished(cell), ""
  except ConfigError as other:
    return None, f"{type(other).__name__}: {other}"


def _measure(cells: Sequence[Cell], method: Method) -> Measure:
  """The headline of the data; of the method's task where none has begun."""
  for cell in cells:
    if (cell.workdir / "data.json").exists():
      info = run_lib.about(cell.workdir)[1]
      return tasks.load(info.task).headline(info)
  return tasks.load(method.task).headline()


def _compared(row: str, method: Method) -> tuple[str, str]:
  """Whose figure stands beside published ones, and what it is called."""
  if row == BASELINE:
    return "deployed", "the network"
  if row == KD_TEACHER or method.compared != "deployed":
    who = "deployed" if row == KD_TEACHER else method.compared
    return who, WHO[who]
  return "deployed", method.deployed_as


def spread(values: Sequence[float]) -> Spread:
  """Mean and sample standard deviation (n - 1) of one value or more."""
  several = len(values) > 1
  return Spread(statistics.mean(values), deviation(values) if several else None)
