"""What a group is trained for, one file a task with a class `Task`."""

import importlib
import pkgutil

from okd_jax.errors import ConfigError
from okd_jax.tasks.measure import Measure as Measure
from okd_jax.tasks.task import Task as Task

# Modules of this package that are no tasks.
_COMMON = (
  "asking",
  "choices",
  "class_answers",
  "figure",
  "keypoint_answers",
  "keypoint_augment",
  "keypoint_batches",
  "keypoint_drawing",
  "keypoint_figures",
  "keypoint_maps",
  "keypoint_metrics",
  "keypoint_oks",
  "measure",
  "task",
)


def names() -> list[str]:
  """Names of the tasks, from the files present."""
  return sorted(
    module.name
    for module in pkgutil.iter_modules(__path__)
    if module.name not in _COMMON
  )


def load(name: str) -> type[Task]:
  """Returns the class of a task.

  Raises:
    ConfigError: if there is no such task, listing those there are.
  """
  if name not in names():
    raise ConfigError(
      f"task '{name}' is not known; there are: {', '.join(names())}. Correct "
      "`task` of the method or of the data."
    )
  found: type[Task] = importlib.import_module(f"{__name__}.{name}").Task
  return found
