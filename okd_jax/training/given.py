"""Refuses what cannot be part of a setup, and says what can."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from okd_jax.core import Batch, Method
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


def check_peers(method: Method, num_peers: int) -> None:
  """Raises ConfigError if a method names peers that a group does not have."""
  for what, named, allowed in (
    ("members", method.members(num_peers), range(num_peers)),
    ("turns", method.turns(num_peers), (None, *range(num_peers))),
    ("leader", (method.leader,), range(-num_peers, num_peers)),
  ):
    if not named or any(peer not in allowed for peer in named):
      raise ConfigError(
        f"{what} of {name(method)} is {named}, and must be of the {num_peers} "
        "peers of the group, counted from 0."
      )


def check_batch(batch: Any) -> None:
  """Raises ConfigError unless it is a batch of examples with all fields."""
  shapes: dict[str, Any] = {
    field: getattr(getattr(batch, field, None), "shape", ())
    for field in ("image", "index", "mask")
  }
  size = shapes["index"]
  if not isinstance(batch, Batch) or not (
    len(size) == 1
    and shapes["mask"] == size
    and size in (shapes["image"][:1], shapes["image"][1:2])
  ):
    raise ConfigError(
      f"a batch must be core.Batch(image [B, H, W, c], target, index [B], mask "
      f"[B]); got a {type(batch).__name__} with the shapes {shapes}."
    )


def check_no_padding(batch: Batch) -> None:
  """Raises ConfigError if the mask of a training batch is known to be False."""
  if not isinstance(batch.mask, jax.core.Tracer) and not np.all(batch.mask):
    raise ConfigError(
      f"mask is False for {np.sum(~np.asarray(batch.mask))} example(s) of a "
      "training batch, and training uses all; only evaluation may pad. Leave "
      "the rest of an epoch out, or fill the batch with other examples."
    )


def check_key(key: Any) -> None:
  """Raises ConfigError unless it is a random key."""
  if jnp.issubdtype(jnp.result_type(key), jax.dtypes.prng_key):
    return
  if jnp.result_type(key) != jnp.uint32 or jnp.ndim(key) != 1:
    raise ConfigError(
      f"key={key!r:.60} must be a random key, such as jax.random.key(0)."
    )


def name(method: Method) -> str:
  """The class of a method and where it is."""
  kind = type(method)
  return f"{kind.__module__}:{kind.__qualname__}"


def _require(holds: bool, setup: Any, name: str, expected: str) -> None:
  if not holds:
    raise ConfigError(
      f"{name}={getattr(setup, name)!r:.80} must be {expected}."
    )
