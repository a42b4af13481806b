"""The rows of a comparison: figures of its runs over seeds."""

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
from okd_jax.storage import files
from okd_jax.storage.paths import Path
from okd_jax.tasks.measure import Measure

CONFIG = "comparison.json"
PUBLISHED = "published.json"
ERROR = "error.txt"

# Columns of the tables: keys of `Row.headlines`, and headings.
WHO = {
  "deployed": "deployed network",
  "peers_mean": "mean of peers",
  "ensemble": "ensemble",
  "group": "group prediction",
}


@dataclasses.dataclass(frozen=True)
class Spread:
  """Mean and, for two or more values, sample standard deviation."""

  mean: float
  std: float | None

  def __str__(self) -> str:
    text = f"{self.mean:.2f}"
    return text if self.std is None else f"{text} ± {self.std:.2f}"


@dataclasses.dataclass(frozen=True)
class Row:
  """One method on one network.

  Attributes:
    net: name of the network under which the row stands.
    name: name in tables: the method, and its values of the grid.
    method: name of a method, or `BASELINE` or `KD_TEACHER`.
    values: its values of the keys in the comparison's grid.
    data: name of the data set.
    kind: kind of the group, as in `config.peers.kind`.
    num_peers: number P of peers.
    nets: networks that it trains, as in `config.peers.net`.
    epochs: length of each run in epochs, including added ones.
    finished: number of finished runs.
    planned: number of runs.
    measure: headline figure of the task.
    runs: headline figures of the finished runs as they are shown, by seed; then
      by a key of `WHO` and one of "last": on test data at the last epoch;
      "best": on test data at the epoch at which this figure is best on
      validation data, or without these on test data; "validation": on
      validation data at the last epoch.
    alike: for finished runs by seed, the figures at the last epoch of those
      peers that differ only in weights and index.
    seconds: mean time to train on one image, in seconds; None if not measured.
    diversity: for finished runs with test data, epochs and diversity at each.
    failures: reasons of failures, by the name of the cell.
    compared: key of `WHO` whose figure stands beside published ones.
    compared_as: what that figure is called.
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
    """Mean and deviation over runs of the values in `runs`."""
    keys = dict.fromkeys(key for run in self.runs.values() for key in run)
    return {key: spread(list(self.by_seed(*key).values())) for key in keys}

  def by_seed(self, who: str, when: str) -> dict[int, float]:
    """One of the values in `runs` by seed, of the runs that have it."""
    return {
      seed: run[who, when]
      for seed, run in self.runs.items()
      if (who, when) in run
    }


def exists(workdir: Path) -> bool:
  """Whether a folder is the work directory of a comparison."""
  return files.exists(workdir / CONFIG)


def reason(error: str) -> str:
  """The message of a failure, without the trace that follows in its file."""
  return error.partition("\n\n")[0]


def failure(cell: Cell) -> str:
  """The content of the file about a cell's failure; empty without a failure."""
  try:
    return files.text(cell.workdir / ERROR)
  except (FileNotFoundError, NotADirectoryError):
    return ""


def finished(cell: Cell) -> dict[str, Any] | None:
  """The summary of a finished cell; None if it is not finished.

  Raises:
    ConfigError: if its folder holds a run of another configuration.
  """
  return outcome.finished(cell.config, cell.workdir)


def is_finished(cell: Cell) -> bool:
  """Whether a cell is finished with this comparison's configuration."""
  try:
    return finished(cell) is not None
  except ConfigError:
    return False  # the worker that tries to train it reports the error


def begun(workdir: Path) -> list[tuple[Path, dict[int, Path], int]]:
  """The rows of a comparison of which a run has begun.

  Returns:
    For each row its folder, its runs to show, by seed, and how many it will
    have. Shown are the finished runs; without any those that have been
    evaluated, and without these all that have begun.
  """
  rows: dict[Path, list[Cell]] = {}
  for cell in _cells(workdir):
    rows.setdefault(cell.workdir.parent, []).append(cell)
  found = []
  for row, cells in rows.items():
    there = [c for c in cells if run_lib.has_data(c.workdir)]
    whole = [c for c in there if not failure(c) and is_finished(c)]
    if not whole:
      whole = [c for c in there if records.read_evaluations(c.workdir)]
    if there:
      shown = {c.seed: c.workdir for c in whole or there}
      found.append((row, shown, len(cells)))
  return found


def read(workdir: Path) -> list[Row]:
  """Reads the rows of a comparison, finished or not."""
  cells: dict[tuple[str, str], list[Cell]] = {}
  for cell in _cells(workdir):
    cells.setdefault((cell.net, cell.row), []).append(cell)
  measures = _measures([cell for group in cells.values() for cell in group])
  return [_row(group, measures) for group in cells.values()]


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


def _row(cells: Sequence[Cell], measures: Mapping[str, Measure]) -> Row:
  config = cells[0].config
  method = config_lib.make_method(config)
  measure = measures[config.data.name]
  num_members = len(method.members(config.peers.num_peers))
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
      runs[cell.seed] = findings.headlines(evaluations, measure, num_members)
      if equal := findings.alike(evaluations[-1][1], config, method, measure):
        alike[cell.seed] = equal
      tested = any(figure.split == "test" for figure in evaluations[-1][1])
      if tested and num_members > 1:
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
  """The summary of a finished cell, and the reason if it has failed."""
  if why := failure(cell):
    return None, reason(why)
  try:
    return finished(cell), ""
  except ConfigError as other:
    return None, f"{type(other).__name__}: {other}"


def _measures(cells: Sequence[Cell]) -> dict[str, Measure]:
  """The headline figure for each data set; before any run, that of the task."""
  found: dict[str, Measure] = {}
  for cell in cells:
    if cell.config.data.name in found:
      continue
    if run_lib.has_data(cell.workdir):
      info = run_lib.about(cell.workdir)[1]
      found[cell.config.data.name] = tasks.load(info.task).headline(info)
  for cell in cells:
    task = tasks.load(cell.config.data.task)
    found.setdefault(cell.config.data.name, task.headline())
  return found


def _compared(row: str, method: Method) -> tuple[str, str]:
  """The figure to compare with published ones: its key, and its name."""
  if row == BASELINE:
    return "deployed", "the network"
  if row == KD_TEACHER or method.compared != "deployed":
    who = "deployed" if row == KD_TEACHER else method.compared
    return who, WHO[who]
  return "deployed", method.deployed_as


def spread(values: Sequence[float]) -> Spread:
  """Mean and sample standard deviation (n - 1) of one or more values."""
  several = len(values) > 1
  return Spread(statistics.mean(values), deviation(values) if several else None)
