"""Runs side by side: the list of runs, and their table."""

from collections.abc import Sequence
import dataclasses

from okd_jax.results import course as course_lib, rows as results
from okd_jax.results.course import Course
from okd_jax.results.curves import Curve
from okd_jax.results.formats import Table
from okd_jax.storage.paths import Path
from okd_jax.tasks.figure import (
  ENSEMBLE,
  Figure,
  is_group,
  LEADER,
  PEERS_MEAN,
)
from okd_jax.tasks.measure import Measure


@dataclasses.dataclass(frozen=True)
class Entry:
  """Runs that differ only in their seeds, and so share a line.

  Attributes:
    label: name of the line, different for each entry.
    course: their records.
    planned: number of seeds that there will be, with those left out.
  """

  label: str
  course: Course
  planned: int

  @property
  def split(self) -> str:
    """Split for its figures: test, else validation; empty without both."""
    there = {figure.split for figure in self.course.evaluated}
    return next((s for s in ("test", "validation") if s in there), "")


def entries(workdirs: Sequence[Path]) -> list[Entry]:
  """Reads the entries to show side by side.

  Args:
    workdirs: folders of runs, of several seeds of a run, and of comparisons.
      Every row of a comparison that has begun is one entry.

  Raises:
    ConfigError: if a folder is none of these.
  """
  found: list[tuple[str, Course]] = []
  planned: list[int] = []
  for workdir in workdirs:
    if not results.exists(workdir):
      course = course_lib.read(workdir)
      found.append((course.config.method.name, course))
      planned.append(len(course.runs))
      continue
    for path, of_seeds, number in results.begun(workdir):
      found.append((path.name, course_lib.read(path, of_seeds)))
      planned.append(number)
  return [
    Entry(label, course, number)
    for label, (_, course), number in zip(
      _labels(found), found, planned, strict=True
    )
  ]


def tables(shown: Sequence[Entry]) -> list[Table]:
  """Tables of the last figures, one for each headline figure."""
  measures = dict.fromkeys(entry.course.headline for entry in shown)
  return [
    _table([e for e in shown if e.course.headline == measure], measure)
    for measure in measures
  ]


def _labels(found: Sequence[tuple[str, Course]]) -> list[str]:
  """Different names: the method, and network and folder where needed."""
  texts = [name for name, _ in found]
  for more in (
    lambda course: course.group,
    lambda course: course.workdir.name,
    lambda course: str(course.workdir.parent),
  ):
    if len(set(texts)) == len(texts):
      break
    texts = [
      f"{text}, {more(course)}" if texts.count(text) > 1 else text
      for text, (_, course) in zip(texts, found, strict=True)
    ]
  return texts


def _table(shown: Sequence[Entry], measure: Measure) -> Table:
  rows = []
  for entry in shown:
    course, config = entry.course, entry.course.config
    in_step = course.task.in_step(course.info)
    rows.append(
      [
        entry.label,
        f"{course.group} on {course.info.name}",
        str(config.epochs + config.extra_epochs),
        _of(len(course.runs), entry.planned),
        *(
          _last(course.evaluated.get(figure) if figure else None, measure)
          for figure in _figures(entry, measure)
        ),
        _last(course.trained.get(in_step.name), in_step),
      ]
    )
  notes = [
    f"{measure.heading}{measure.unit} at the last evaluation that all seeds of "
    "a run have, on test data, or on validation data if there are no test "
    "data: mean ± sample standard deviation over seeds. Of a comparison, seeds "
    "that are not finished are left out where others are. The last column is "
    "of the last record of training that they have."
  ]
  heads = ["run", "networks and data", "epochs", "seeds"]
  heads += results.WHO.values()
  return Table("Side by side", [*heads, "training batches"], rows, notes)


def _of(count: int, planned: int) -> str:
  return str(count) if count == planned else f"{count} of {planned}"


def _figures(entry: Entry, measure: Measure) -> list[Figure | None]:
  """The figures of the columns `WHO`, of averaged peers if these exist."""
  there = [
    f
    for f in entry.course.evaluated
    if (f.split, f.measure) == (entry.split, measure.name)
  ]
  averaged = any(f.averaged and f.who == PEERS_MEAN for f in there)

  def first(fits):
    return next((f for f in there if fits(f)), None)

  return [
    first(lambda f: f.who == LEADER),
    first(lambda f: f.who == PEERS_MEAN and f.averaged == averaged),
    first(lambda f: f.who == ENSEMBLE and f.averaged == averaged),
    first(
      lambda f: is_group(f.who) and f.who != ENSEMBLE and f.averaged == averaged
    ),
  ]


def _last(curve: Curve | None, measure: Measure) -> str:
  """The last value of a curve as it is shown."""
  if curve is None:
    return "-"
  shown = curve.scaled(measure.scaled(1.0))
  spread = None if shown.deviation is None else float(shown.deviation[-1])
  return str(results.Spread(float(shown.values[-1]), spread))
