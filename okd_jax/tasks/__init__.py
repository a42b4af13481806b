"""What a group is trained for, one file a task with a class `Task`."""

import importlib

from okd_jax.errors import ConfigError
from okd_jax.tasks.measure import Measure as Measure
from okd_jax.tasks.task import Task as Task

NAMES = ("classification", "keypoints")


def load(name: str) -> type[Task]:
  """Returns the class of a task.

  Raises:
    ConfigError: if there is no such task, listing those there are.
  """
  if name not in NAMES:
    raise ConfigError(
      f"task '{name}' is not known; there are: {', '.join(NAMES)}. Correct "
      "`task` of the method or of the data."
    )
  found: type[Task] = importlib.import_module(f"{__name__}.{name}").Task
  return found
