"""A run on disk: its configuration and its newest verified state."""

from collections.abc import Iterator
import contextlib
import dataclasses
import json
from typing import Any

import jax
from jax.sharding import Mesh

from okd_jax.core import Outputs, Variables
from okd_jax.data import Source
from okd_jax.data.info import DataInfo
from okd_jax.devices import mesh as mesh_lib
from okd_jax.errors import ConfigError
from okd_jax.runs import same_data
from okd_jax.settings import build, config as config_lib, freeze
from okd_jax.settings.schema import RunConfig
from okd_jax.storage import files
from okd_jax.storage.checkpoint import Checkpoints
from okd_jax.storage.paths import Path
from okd_jax.training import setup as setup_lib, state as state_lib, targets
from okd_jax.training.setup import Setup
from okd_jax.training.state import TrainState, variables

_CONFIG = "config.json"
_DATA = "data.json"
# In it, `Source.labels_sum`; absent in runs of earlier releases.
_LABELS = "labels_sum"
# Shapes of the teacher's outputs; absent without a teacher, and in runs of
# earlier releases.
_TEACHER = "teacher.json"
# Runs in the folder of several seeds, a search and a comparison.
_BELOW = ("seed*", "trial*", "*/*/seed*")
_MOST = 8


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished or interrupted run.

  Attributes:
    workdir: work directory of the run.
    config: configuration of the run.
    setup: its group, method and task, without frozen teachers.
    state: state of the newest verified checkpoint, or of the best one if the
      configuration deploys that.
    step: number of training steps of this state.
  """

  workdir: Path
  config: RunConfig
  setup: Setup
  state: TrainState
  step: int

  @property
  def info(self) -> DataInfo:
    """The data set, normalised as the networks see it."""
    info = self.setup.task.info
    assert info is not None, "a run on disk is always of a data set"
    return info

  @property
  def leader(self) -> int:
    """Index of the peer that is deployed, counted from 0."""
    return self.setup.leader

  @property
  def deployed(self) -> tuple[Any, Any]:
    """Parameters and memory that are deployed: averaged ones if there are."""
    kept = self.state if self.state.average is None else self.state.average
    return kept.params, kept.memory

  @property
  def peers_variables(self) -> Variables:
    """The deployed variables of the whole group, as for `setup.peers`."""
    return variables(*self.deployed, "peers")


def remember(
  config: RunConfig, setup: Setup, source: Source, workdir: Path
) -> None:
  """Writes what `run` reads, except for the state.

  Args:
    config: configuration of the run.
    setup: its setup, with the teacher, which is not needed to reopen the run.
    source: its data, which are not needed to reopen the run.
    workdir: work directory of the run.
  """
  if jax.process_index() == 0:
    about = {"train_size": source.train_size, _LABELS: source.labels_sum}
    about |= dataclasses.asdict(source.info)
    contents = {_CONFIG: freeze.as_dict(config), _DATA: about}
    if (outputs := targets.teacher_example(setup)) is not None:
      contents[_TEACHER] = targets.to_json(outputs)
    for name, content in contents.items():
      files.write(
        workdir / name, json.dumps(content, indent=2) + "\n", durable=True
      )
    same_data.remember(workdir, source)


def require_same_data(workdir: Path, source: Source) -> None:
  """Refuses data that are not those of the run in a folder, if there is one.

  Raises:
    DataError: saying what has changed.
  """
  if has_data(workdir):
    # Without config.json, which a user may have removed as damaged.
    with _explained(workdir):
      info, _ = _read_data(workdir)
    same_data.require(workdir, info, source)


def require_same_order(workdir: Path, source: Source) -> None:
  """Refuses training data in another order than those of a run in a folder.

  Raises:
    DataError: if they are.
  """
  if has_data(workdir):
    known = _object(workdir / _DATA).get(_LABELS)
    same_data.require_order(workdir, known, source)


def exists(workdir: Path) -> bool:
  """Whether a run has begun in a folder."""
  return files.exists(workdir / _CONFIG)


def has_data(workdir: Path) -> bool:
  """Whether a run in a folder has read its data."""
  return files.exists(workdir / _DATA)


def saved_config(workdir: Path) -> dict[str, Any] | None:
  """The configuration of the run in a work directory; None if there is none.

  Raises:
    ConfigError: if its file is damaged, or cannot be read.
  """
  path = workdir / _CONFIG
  try:
    return _object(path)
  except (FileNotFoundError, NotADirectoryError):
    return None
  except OSError as error:
    raise ConfigError(
      f"{path} cannot be read ({error.strerror}); mend that, or choose another "
      "--workdir."
    ) from error
  except ValueError as error:
    raise ConfigError(
      f"{path} is damaged ({error}), so it cannot be told which run is there. "
      "Choose another --workdir; or remove the file, if this command is the "
      "one that made it: its checkpoints are still checked."
    ) from error


def _object(path: Path) -> dict[str, Any]:
  """The content of a JSON file; raises ValueError unless it is an object."""
  content = json.loads(files.text(path))
  if not isinstance(content, dict):
    raise ValueError("it holds no object")
  return content


def checkpoints(config: RunConfig, workdir: Path) -> Checkpoints:
  """The checkpoints of a run; nothing is written yet."""
  return Checkpoints(
    workdir / "checkpoints", config_hash=config_lib.digest(config)
  )


def run(workdir: Path, on: Mesh | None = None) -> Run:
  """Reopens a run, also while it trains, without its data or compiling.

  Args:
    workdir: work directory of the run.
    on: devices for its state; by default the first device of this process. They
      may differ from those that it was trained on.

  Raises:
    ConfigError: if there is no run.
    CheckpointError: if it has no verified checkpoint.
  """
  config, info, train_size = about(workdir)
  on = on or mesh_lib.make_mesh(1, 1, jax.local_devices())
  setup = dataclasses.replace(
    build.setup(config, info, train_size, on),
    teacher_example=_teacher_example(workdir),
  )
  saved = checkpoints(config, workdir)
  key = setup_lib.initial_key(config.seed)
  chosen = saved.best_verified() if config.deploy == "best" else None
  state, step, _ = saved.restore(state_lib.abstract(setup, key), chosen)
  return Run(workdir, config, setup, state, step)


def _teacher_example(workdir: Path) -> Outputs | None:
  path = workdir / _TEACHER
  try:
    return targets.from_json(json.loads(files.text(path)))
  except FileNotFoundError:
    return None
  except (OSError, ValueError, LookupError, TypeError) as error:
    raise ConfigError(
      f"{path} is damaged ({error}); run the training command again to write "
      "it anew."
    ) from error


def about(workdir: Path) -> tuple[RunConfig, DataInfo, int]:
  """A run's configuration, facts about its data, and its training examples.

  Raises:
    ConfigError: if there is no run.
  """
  with _explained(workdir):
    saved = _object(workdir / _CONFIG)
    config = freeze.freeze(config_lib.of_today(saved))
    return config, *_read_data(workdir)


def _read_data(workdir: Path) -> tuple[DataInfo, int]:
  data = _object(workdir / _DATA)
  train_size = data.pop("train_size")
  data.pop(_LABELS, None)
  return DataInfo.of_json(data), train_size


@contextlib.contextmanager
def _explained(workdir: Path) -> Iterator[None]:
  """Turns what reading a run's files raises into a ConfigError."""
  try:
    yield
  except OSError as error:
    inside = [
      path.parent.relative_to(workdir).as_posix()
      for below in _BELOW
      for path in sorted(workdir.glob(f"{below}/{_CONFIG}"))
    ]
    remedy = "give the --workdir of main.py."
    if inside:
      remedy = f"name that of one run in it: {', '.join(inside[:_MOST])}."
    raise ConfigError(
      f"{workdir} is not the work directory of a run ({error.strerror}: "
      f"{error.filename}); {remedy}"
    ) from error
  except ConfigError:
    raise
  except (LookupError, TypeError, ValueError) as error:
    raise ConfigError(
      f"{workdir} has a damaged {_CONFIG} or {_DATA} ({error!r}); remove "
      "the damaged one and run the training command again, which writes it."
    ) from error
