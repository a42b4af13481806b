"""A closer look at what is deployed, in the pass that evaluates it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from okd_jax.core import Array, Batch
from okd_jax.devices import mesh as mesh_lib
from okd_jax.groups import once
from okd_jax.tasks import figure as figure_lib
from okd_jax.tasks.choices import Choices
from okd_jax.tasks.figure import is_reference
from okd_jax.tasks.task import Rows, total
from okd_jax.training import step as steps
from okd_jax.training.setup import Setup

# With their images.
_MOST_MISTAKES = 48


@dataclasses.dataclass(frozen=True)
class Seen:
  """The results of the deployed variables.

  Attributes:
    first: figures of the ensemble of the first k members, k = 1 first.
    names: names of the predictions in `choices`, peers first.
    choices: the class given to every example, on the host, without padding;
      None if classes were not requested.
    mistakes: the leader's most confident mistakes, the most confident first:
      the position in `choices`, and the image as from the source.
  """

  first: list[dict[str, float]]
  names: tuple[str, ...]
  choices: Choices | None
  mistakes: list[tuple[int, np.ndarray]]


class Closely:
  """Replaces `eval_step` and keeps further results of its batches."""

  def __init__(self, setup: Setup, *, per_class: bool):
    """Compiles nothing yet.

    Args:
      setup: what stays fixed during the run.
      per_class: whether to keep which class every example was given.

    Raises:
      ConfigError: if the task does not tell classes apart.
    """
    if per_class:
      setup.task.require_classes()
    self._setup, self._per_class = setup, per_class
    self._look_fn = once.jitted(_look, setup, per_class)
    self._merge_fn = once.jitted(_merge)
    self._first: list[Any] = []
    self._choices: list[Any] = []
    self._names: tuple[str, ...] = ()
    self._worst: Any = None
    self._rows = 0

  def __call__(self, params: Any, memory: Any, batch: Batch) -> dict[str, Any]:
    """Measures a group on one batch, see `okd_jax.training.eval_step`."""
    sums, first, choices = self._look_fn(params, memory, batch)
    self._first.append(first)
    if choices is not None:
      size, leader = len(batch.mask), self._setup.leader
      rows = jnp.arange(size, dtype=jnp.int32) + self._rows
      found = _mistakes(choices.values, leader), rows, batch.image
      self._worst = self._merge_fn(self._worst, found)
      self._rows += size
      self._choices.append(choices)
      peers = map(figure_lib.peer, range(self._setup.peers.num_peers))
      groups = (n for n in sums["predictions"] if not is_reference(n))
      self._names = (*peers, *sorted(groups))
    return sums

  def seen(self) -> Seen:
    """The results so far."""
    sums = total(self._first) or []
    first = [dict(self._setup.task.figures(part)) for part in sums]
    if not self._choices:
      return Seen(first, (), None, [])
    every: Choices = total(self._choices).values
    surest, rows, images = mesh_lib.to_host(self._worst)
    # Where a row of the pass is without padding.
    place = np.cumsum(every.mask) - 1
    mistakes = [
      (int(place[row]), image)
      for sure, row, image in zip(surest, rows, images, strict=True)
      if sure >= 0
    ]
    choices = jax.tree.map(lambda leaf: leaf[..., every.mask], every)
    return Seen(first, self._names, choices, mistakes)


def _look(
  setup: Setup, per_class: bool, params: Any, memory: Any, batch: Batch
) -> tuple[dict[str, Any], list[Any], Rows | None]:
  """The sums of `eval_step`, those of the first k, and choices if asked."""
  logits, predictions = steps.predict(setup, params, memory, batch)
  sums = steps.measured(setup, batch, logits, predictions)
  members = logits[jnp.array(setup.method.members(len(logits)))]
  first = [
    setup.task.measure(setup.task.combine(members[:k]), batch)
    for k in range(1, len(members) + 1)
  ]
  if not per_class:
    return sums, first, None
  named = [predictions[name] for name in sorted(predictions)]
  choices = setup.task.choices(jnp.stack([*logits, *named]), batch)
  return sums, first, Rows(choices, -1)


def _mistakes(choices: Choices, leader: int) -> Array:
  """The leader's confidence in each mistake; -1 where it makes none."""
  wrong = (choices.first[leader] != choices.label) & choices.mask
  return jnp.where(wrong, choices.confidence[leader], -1.0)


def _merge(before: Any, found: Any) -> Any:
  """The most confident mistakes of both, each with its row and image."""
  if before is not None:
    found = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), before, found)
  _, chosen = jax.lax.top_k(found[0], min(_MOST_MISTAKES, len(found[0])))
  return jax.tree.map(lambda leaf: leaf[chosen], found)
