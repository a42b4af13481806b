"""What an evaluation found, of one run and of several seeds, and its tables."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import logging
from typing import Any

from okd_jax.cli import common
from okd_jax.results.closer import Closer
from okd_jax.runs import display, spread
from okd_jax.storage.paths import Path
from okd_jax.tasks.measure import Measure
from okd_jax.tasks.task import Task

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Evaluated:
  """The results of one run.

  Attributes:
    workdir: work directory of the run.
    step: step of the evaluated state.
    task: task of the run.
    count: number of examples.
    distances: diversity of the peers, by name.
    values: the measures of every prediction.
    first: measures of the ensemble of the first k members, k = 1 first; empty
      for one network.
    closer: the results of each class, if they were requested.
  """

  workdir: Path
  step: int
  task: Task
  count: int
  distances: dict[str, float]
  values: dict[str, dict[str, Any]]
  first: list[dict[str, float]]
  closer: Closer | None

  @property
  def as_json(self) -> dict[str, Any]:
    found = {"step": self.step} | self.distances | {"figures": self.values}
    if self.first:
      found["ensemble_of_first"] = {
        str(k): figures for k, figures in enumerate(self.first, 1)
      }
    return found | ({"per_class": self.closer.as_json()} if self.closer else {})


def report(only: Evaluated, split: str, *, as_json: bool) -> None:
  """Prints the results of one run, as tables or as JSON."""
  if as_json:
    about = {"split": split, "count": only.count}
    common.print_json(about | only.as_json)
    return
  title = f"{only.workdir}, step {only.step}, {split} split"
  _show(title, only.values, only.task, only.count)
  _show_extra([only])


def report_several(
  found: Sequence[Evaluated], group: Path, split: str, *, as_json: bool
) -> None:
  """Prints the same of several seeds, with mean and deviation.

  Args:
    found: the results of every seed.
    group: the work directory that they share.
    split: the split of all.
    as_json: whether to print JSON instead of tables.
  """
  first = found[0]
  if len({each.step for each in found}) > 1:
    _log.warning(
      "These are means over different steps: %s.",
      ", ".join(f"{each.workdir.name} at {each.step}" for each in found),
    )
  spreads = {
    who: spread.over([each.values[who] for each in found])
    for who in first.values
  }
  if as_json:
    runs = {each.workdir.name: each.as_json for each in found}
    about = {"split": split, "count": first.count, "figures": spreads}
    common.print_json(about | {"runs": runs})
    return
  measures = _measured(first.task, spreads.values())
  display.table(
    f"{group}, {split} split, mean ± sample standard deviation "
    f"over {len(found)} seeds",
    ["who", *(measure.title for measure in measures)],
    [
      (
        who,
        *(measure.spread(**spreads[who][measure.name]) for measure in measures),
      )
      for who in spreads
    ],
  )
  _show_extra(found)


def _show_extra(found: Sequence[Evaluated]) -> None:
  """Shows the first k of all runs together, and the classes of each run."""

  def text(measure: Measure, value: Mapping[str, float]) -> str:
    several = len(found) > 1
    return measure.spread(**value) if several else measure.text(value["mean"])

  firsts = zip(*(each.first for each in found), strict=True)
  if spreads := [spread.over(first) for first in firsts]:
    shown = _measured(found[0].task, spreads)
    display.table(
      "Ensemble of the first k members",
      ["k", *(m.title for m in shown)],
      [
        [str(k), *(text(m, values[m.name]) for m in shown)]
        for k, values in enumerate(spreads, 1)
      ],
    )
  for closer in (each.closer for each in found if each.closer):
    for table in closer.tables():
      display.table(table.title, table.columns, table.rows)
      for note in table.notes:
        print(note)


def _measured(task: Task, values: Iterable[Mapping[str, Any]]) -> list[Measure]:
  """The measures of a task that the data allow, as tables show them."""
  found = {name for measured in values for name in measured}
  return task.tabled(found, task.info)


def _show(
  title: str, values: Mapping[str, dict[str, Any]], task: Task, count: int
) -> None:
  counts = task.headline(task.info).counts
  measures = _measured(task, values.values())
  rows = [
    (
      who,
      *([str(measured[counts])] if counts else []),
      *(measure.text(measured[measure.name]) for measure in measures),
    )
    for who, measured in values.items()
  ]
  columns = ["who", *([f"{counts} of {count}"] if counts else [])]
  columns += [measure.title for measure in measures]
  display.table(title, columns, rows)
