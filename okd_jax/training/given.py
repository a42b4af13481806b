"""Refuses what cannot be part of a setup, and says what can."""

from typing import Any

from okd_jax.core import Method
from okd_jax.errors import ConfigError
from okd_jax.groups import Group
from okd_jax.tasks.task import Task

_MADE_BY = {
  "peers": (Group, "a group, such as okd_jax.groups.replicas makes"),
  "method": (Method, "an instance, such as okd_jax.methods.make('dml')"),
  "task": (Task, "an instance, such as okd_jax.tasks.classification.Task(...)"),
}


def check(setup: Any) -> None:
  """Raises ConfigError unless the parts of a setup are of their kinds."""
  for name, (kind, expected) in _MADE_BY.items():
    _require(isinstance(getattr(setup, name), kind), setup, name, expected)
  update = getattr(setup.optimizer, "update", None)
  expected = "a transformation of optax, such as optax.adamw(1e-3)"
  _require(callable(update), setup, "optimizer", expected)


def _require(holds: bool, setup: Any, name: str, expected: str) -> None:
  if not holds:
    raise ConfigError(
      f"{name}={getattr(setup, name)!r:.80} must be {expected}."
    )
