"""What a group is trained for: the contract of all tasks."""

import abc
from collections.abc import Mapping
import dataclasses
from typing import Any

from okd_jax.core import Array, Batch


@dataclasses.dataclass(frozen=True)
class Measure:
  """One figure of a task.

  Attributes:
    name: as records have it, for example "accuracy".
    title: as tables have it, for example "top-1".
    higher_is_better: which of two values is the better one.
    fraction: whether people read it in percent.
  """

  name: str
  title: str
  higher_is_better: bool = True
  fraction: bool = True


class Task(abc.ABC):
  """Targets, augmentation together with targets, and figures.

  Methods never see the task; the setup of a run holds it.
  """

  @property
  @abc.abstractmethod
  def measures(self) -> tuple[Measure, ...]:
    """Its figures, the headline first: what tables and "best" go by."""

  @property
  def headline(self) -> Measure:
    """The figure by which runs are compared."""
    return self.measures[0]

  @abc.abstractmethod
  def out_shape(self) -> tuple[int, ...]:
    """Shape of one example's logits: (C,) for classification."""

  @abc.abstractmethod
  def blank(self, size: int) -> Batch:
    """A batch of `size` examples, for its shapes alone."""

  @abc.abstractmethod
  def augment(self, batch: Batch, key: Array, num_views: int | None) -> Batch:
    """Augments images, and targets with them, with a key for all views."""

  @abc.abstractmethod
  def normalize(self, batch: Batch) -> Batch:
    """Prepares images for evaluation."""

  @abc.abstractmethod
  def headline_in_step(self, logits: Array, batch: Batch) -> Array:
    """The cheap headline of a training step: [P] from logits [P, B, *out]."""

  @abc.abstractmethod
  def measure(self, logits: Array, batch: Batch) -> Any:
    """Sums over the examples that are not padding; a tree, traced.

    Args:
      logits: [..., B, *out].
      batch: targets and mask.

    Returns:
      Sums for every leading index, such that sums of two batches add up.
    """

  @abc.abstractmethod
  def figures(self, sums: Any) -> Mapping[str, float]:
    """Figures by name, of scalar sums on the host."""

  @abc.abstractmethod
  def combine(self, logits: Array) -> Array:
    """What an ensemble says: [B, *out] from its members' [M, B, *out]."""

  @abc.abstractmethod
  def diversity_sum(self, logits: Array, batch: Batch) -> Array:
    """Sum over examples of how far the members [M, B, *out] are apart."""
