"""What a group is trained for: the contract of all tasks."""

import abc
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from okd_jax.core import Array, Batch
from okd_jax.data.info import DataInfo
from okd_jax.devices import mesh


@dataclasses.dataclass(frozen=True)
class Measure:
  """One figure of a task.

  Attributes:
    name: as records have it, for example "accuracy".
    title: as columns of tables have it, for example "top-1".
    higher_is_better: which of two values is the better one.
    fraction: whether it is a share of the examples, which people read in
      percent.
    counts: of a share, what these examples are called, for example "correct".
  """

  name: str
  title: str
  higher_is_better: bool = True
  fraction: bool = True
  counts: str = ""

  @property
  def words(self) -> str:
    """The name in a sentence."""
    return self.name.replace("_", " ")

  @property
  def unit(self) -> str:
    """What stands behind the name where a number stands alone."""
    return " in %" if self.fraction else ""

  def scaled(self, value: Any) -> Any:
    """The number that people read: percent of a fraction."""
    return 100 * value if self.fraction else value

  def text(self, value: float) -> str:
    """The same with its unit: 0.4512 is "45.12 %"."""
    return f"{100 * float(value):.2f} %" if self.fraction else f"{value:.4f}"

  def spread(self, mean: float, deviation: float) -> str:
    """Mean and deviation as people read them: "45.12 ± 0.30 %"."""
    if self.fraction:
      return f"{100 * mean:.2f} ± {100 * deviation:.2f} %"
    return f"{mean:.4f} ± {deviation:.4f}"

  def merit(self, value: float) -> float:
    """A number that is the greater, the better the value."""
    return value if self.higher_is_better else -value


class Task(abc.ABC):
  """Targets, augmentation together with targets, and figures.

  Each is the class `Task` of a module in this package. The setup of a run
  holds it; methods never see it.

  Attributes:
    name: that of its module; a method says by it what it is for.
    measures: its figures, the headline first: what tables and "best" go by.
    info: of a data set whose images are augmented and normalised here; None
      for batches of one's own, which hold floats.
  """

  name: ClassVar[str]
  measures: ClassVar[tuple[Measure, ...]]
  info: DataInfo | None

  @classmethod
  def headline(cls) -> Measure:
    """The figure by which runs are compared."""
    return cls.measures[0]

  @classmethod
  @abc.abstractmethod
  def of(
    cls,
    info: DataInfo,
    *,
    pad_mode: str = "constant",
    image_dtype: Any = jnp.float32,
  ) -> Self:
    """The task of a data set.

    Args:
      info: what is known about it.
      pad_mode: how images are padded before a crop, as in
        `okd_jax.data.augment`.
      image_dtype: of the images that networks see.
    """

  @abc.abstractmethod
  def out_shape(self) -> tuple[int, ...]:
    """Shape of one example's logits: (C,) for classification."""

  @abc.abstractmethod
  def blank(self, size: int) -> Batch:
    """A batch of `size` examples as networks see it, for its shapes."""

  @abc.abstractmethod
  def augment(
    self, batch: Batch, key: Array, *, num_views: int | None, mesh: Mesh
  ) -> Batch:
    """Augments images, and targets with them, and normalises.

    Args:
      batch: as it comes from the source.
      key: random key of this step.
      num_views: P, one independent view a peer; None for one for all.
      mesh: the devices.
    """

  @property
  def per_peer(self) -> bool:
    """Whether every peer is shown other targets, [P, B, ...]."""
    return False

  def weights(self, batch: Batch) -> Array | float:
    """What an example counts in the loss, [B] or [P, B]; 1 on average."""
    del batch
    return 1.0

  @abc.abstractmethod
  def normalize(self, batch: Batch) -> Batch:
    """Prepares images for evaluation."""

  @abc.abstractmethod
  def normalize_floats(self, images: Array) -> Array:
    """The same for float images in [0, 1]: the input of an exported network."""

  @abc.abstractmethod
  def headline_in_step(self, logits: Array, batch: Batch) -> Array:
    """The headline of a training batch: [P] from logits [P, B, *out]."""

  @abc.abstractmethod
  def measure(self, logits: Array, batch: Batch) -> Any:
    """Sums over the examples that are not padding; a tree, traced.

    Args:
      logits: [..., B, *out].
      batch: targets and mask.

    Returns:
      Sums for every leading index, such that sums of two batches add up. A
      scalar belongs to all of them.
    """

  @abc.abstractmethod
  def figures(self, sums: Any) -> Mapping[str, float]:
    """Figures by name, of the sums of one prediction on the host."""

  @abc.abstractmethod
  def combine(self, logits: Array) -> Array:
    """What an ensemble says: [B, *out] from its members' [M, B, *out]."""

  @abc.abstractmethod
  def diversity_sum(self, logits: Array, batch: Batch) -> Array:
    """Sum over examples of how far the members [M, B, *out] are apart."""

  @classmethod
  @abc.abstractmethod
  def card(cls, info: DataInfo) -> dict[str, Any]:
    """What a user of an exported network must know of its output, as JSON."""

  @classmethod
  @abc.abstractmethod
  def answers(
    cls, logits: Array, card: Mapping[str, Any], top: int
  ) -> list[Any]:
    """What a network says about each image, for people, as JSON values.

    Args:
      logits: [B, *out].
      card: of the network.
      top: how many guesses to give.
    """

  @classmethod
  @abc.abstractmethod
  def answer_cells(cls, answer: Any) -> Sequence[str]:
    """One such answer as cells of a table."""


def total(parts: Iterable[Any]) -> Any:
  """Adds the sums of several batches, on the host, in float64 and int64."""

  def wide(leaf):
    leaf = np.asarray(leaf)
    return leaf.astype(np.int64 if leaf.dtype.kind == "i" else np.float64)

  result = None
  for part in parts:
    part = jax.tree.map(wide, mesh.to_host(part))
    result = part if result is None else jax.tree.map(np.add, result, part)
  return result
