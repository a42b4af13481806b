"""The course of a run: curves from its records, of one seed or several."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from okd_jax import tasks
from okd_jax.data.info import DataInfo
from okd_jax.results import curves
from okd_jax.results.curves import Curve
from okd_jax.runs import records, run as run_lib, sizes, workdir as workdir_lib
from okd_jax.settings import config as config_lib
from okd_jax.settings.schema import RunConfig
from okd_jax.storage import paths as paths_lib
from okd_jax.storage.paths import Path
from okd_jax.tasks.figure import distinct, Figure, is_group, LEADER
from okd_jax.tasks.measure import Measure
from okd_jax.tasks.task import Task

TEACHER = "frozen teacher"


@dataclasses.dataclass(frozen=True)
class Course:
  """The records of the runs of one recipe, as curves.

  Attributes:
    workdir: folder of the run, or of the runs of several seeds.
    runs: work directories of the runs, by seed; that of a single run under
      None.
    config: configuration of the first run.
    info: facts about the data set.
    trained: curves measured on training batches, by name in the records.
    evaluated: curves of the figures of the evaluations.
    gaps: curves of the lead over the leader in the headline figure, of the
      ensemble, the method's group predictions and a frozen teacher; above 0
      where they are better.
  """

  workdir: Path
  runs: Mapping[int | None, Path]
  config: RunConfig
  info: DataInfo
  trained: Mapping[str, Curve]
  evaluated: Mapping[Figure, Curve]
  gaps: Mapping[Figure, Curve]

  @property
  def task(self) -> type[Task]:
    """The task of the runs."""
    return tasks.load(self.info.task)

  @property
  def headline(self) -> Measure:
    """The headline figure of the task."""
    return self.task.headline(self.info)

  @property
  def leader(self) -> int:
    """Index of the peer that is deployed, counted from 0."""
    method = config_lib.make_method(self.config)
    return range(self.config.peers.num_peers)[method.leader]

  @property
  def group(self) -> str:
    """A description of the group, for example "4 replicas of resnet32"."""
    peers = self.config.peers
    return sizes.networks(peers.num_peers, peers.kind, peers.net)

  @property
  def title(self) -> str:
    """A title for pictures: method, group, data and number of seeds."""
    text = f"{self.config.method.name}, {self.group} on {self.info.name}"
    if len(self.runs) > 1:
      text += f": mean and deviation over {len(self.runs)} seeds"
    return text


def read(workdir: Path, of_seeds: Mapping[int, Path] | None = None) -> Course:
  """Reads the records of a run, finished or not.

  Of several seeds, it reads the steps that all of them have recorded.

  Args:
    workdir: folder of the run, or of the runs of several seeds.
    of_seeds: folders of the runs to read, by seed; None for all in `workdir`.

  Raises:
    ConfigError: if there is no run.
  """
  runs: Mapping[int | None, Path] = (
    workdir_lib.runs(workdir) if of_seeds is None else dict(of_seeds.items())
  )
  paths = list(runs.values())
  config, info, train_size = run_lib.about(paths[0])
  epochs_a_step = config.batch_size / train_size
  trained = curves.of_runs(list(map(_trained, paths)), epochs_a_step)
  evaluations = list(map(records.read_evaluations, paths))
  evaluated = distinct(curves.of_runs(evaluations, epochs_a_step))
  ahead = [
    _gaps(path, found) for path, found in zip(paths, evaluations, strict=True)
  ]
  gaps = curves.of_runs(ahead, epochs_a_step)
  return Course(workdir, runs, config, info, trained, evaluated, gaps)


def _gaps(workdir: Path, evaluations: curves.Records) -> curves.Records:
  """The lead of group predictions and a teacher at every evaluation."""
  config, info, _ = run_lib.about(workdir)
  measure = tasks.load(info.task).headline(info)
  frozen = _teacher(config)
  gaps = []
  for step, found in evaluations:
    headlines = {f: v for f, v in found.items() if f.measure == measure.name}
    averaged = any(f.averaged for f in headlines)
    leaders = {f.split: v for f, v in headlines.items() if f.who == LEADER}
    taught = {
      f: value
      for f, value in distinct(headlines).items()
      if is_group(f.who) and f.averaged == averaged
    }
    for split in leaders:
      figure = Figure(split, LEADER, False, measure.name)
      if figure in frozen:
        taught[dataclasses.replace(figure, who=TEACHER)] = frozen[figure]
    gaps.append(
      (
        step,
        {
          f: measure.merit(value) - measure.merit(leaders[f.split])
          for f, value in taught.items()
        },
      )
    )
  return gaps


def _teacher(config: RunConfig) -> Mapping[Figure, float]:
  """The last figures of the frozen teacher; empty if it has no records."""
  if not config.teacher:
    return {}
  found = records.read_evaluations(paths_lib.anywhere(config.teacher))
  return found[-1][1] if found else {}


def _trained(workdir: Path) -> curves.Records:
  """The records of training of a run, by step."""
  found: list[tuple[int, dict[str, Any]]] = [
    (record.pop("step"), record)
    for record in records.read_metrics(workdir)
    if record.pop("kind") == "train"
  ]
  return found
