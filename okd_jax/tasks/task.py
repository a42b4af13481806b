"""What a group is trained for: the interface of all tasks."""

import abc
from collections.abc import Collection, Iterable, Mapping, Sequence
import math
from pathlib import Path
from typing import Any, ClassVar, Self

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from okd_jax.core import Array, Batch
from okd_jax.data.augmentation import Augment
from okd_jax.data.info import DataInfo
from okd_jax.devices import mesh
from okd_jax.errors import ConfigError
from okd_jax.tasks.asking import Asking, Picture
from okd_jax.tasks.choices import Choices
from okd_jax.tasks.measure import Measure


class Task(abc.ABC):
  """Targets, augmentation together with targets, and figures.

  Each task is the class `Task` of a module in this package. The setup of a run
  holds it; methods never see it.

  Attributes:
    name: name of its module, by which a method says what task it is for.
    measures: all its figures, the headline figure first, which tables and
      "best" are based on. Some of them may need what a data set does not have.
    step_measure: the figure of training batches, if it is not the headline.
    classes_are: the word for what `DataInfo.class_names` names.
    num_pictures: how many examples `pictures` shows; 0 if there are none.
    info: facts about a data set whose images are augmented and normalised here;
      None for your own batches, which hold floats.
  """

  name: ClassVar[str]
  measures: ClassVar[tuple[Measure, ...]]
  step_measure: ClassVar[Measure | None] = None
  classes_are: ClassVar[str] = "classes"
  num_pictures: ClassVar[int] = 0
  info: DataInfo | None

  @classmethod
  def headline(cls, info: DataInfo | None = None) -> Measure:
    """The figure by which runs on a data set are compared."""
    del info
    return cls.measures[0]

  @classmethod
  def measures_of(cls, info: DataInfo | None = None) -> tuple[Measure, ...]:
    """Those of its figures that a data set has."""
    del info
    return cls.measures

  @classmethod
  def tabled(
    cls, names: Collection[str], info: DataInfo | None = None
  ) -> list[Measure]:
    """Those of the named figures that tables show for a data set."""
    classes = math.inf if info is None else info.num_classes
    return [
      measure
      for measure in cls.measures
      if measure.name in names and classes >= measure.min_classes
    ]

  @classmethod
  def in_step(cls, info: DataInfo | None = None) -> Measure:
    """The figure of training batches."""
    return cls.step_measure or cls.headline(info)

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
      info: what is known about the data set.
      pad_mode: how images are padded before a crop, as in
        `okd_jax.data.augment`.
      image_dtype: dtype of the images that networks see.
    """

  def changed(
    self,
    augmentation: Augment,
    smoothing: float,
    class_weights: tuple[float, ...],
  ) -> Self:
    """The task with other changes of pictures and targets in training.

    Raises:
      ConfigError: if the task cannot make these changes.
    """
    del augmentation, smoothing, class_weights
    raise ConfigError(
      f"the data are for '{self.name}', which config.augment, "
      "config.label_smoothing and config.class_weights do not change; leave "
      "them at their defaults."
    )

  @abc.abstractmethod
  def out_shape(self) -> tuple[int, ...]:
    """Shape of one example's logits: (C,) for classification."""

  @abc.abstractmethod
  def blank(self, size: int) -> Batch:
    """A batch of `size` examples as networks see it; only shapes matter."""

  @abc.abstractmethod
  def augment(
    self, batch: Batch, key: Array, *, num_views: int | None, mesh: Mesh
  ) -> Batch:
    """Augments images, and targets with them, and normalises.

    Args:
      batch: the batch as it comes from the source.
      key: random key of this step.
      num_views: number P of independent views, one per peer; None for one view
        that all peers share.
      mesh: the devices.
    """

  @property
  def per_peer(self) -> bool:
    """Whether every peer has targets of its own, [P, B, ...]."""
    return False

  def weights(self, batch: Batch) -> Array | float:
    """Weights of the examples in the loss, [B] or [P, B]; 1 on average."""
    del batch
    return 1.0

  @abc.abstractmethod
  def normalize(self, batch: Batch) -> Batch:
    """Prepares images for evaluation."""

  @abc.abstractmethod
  def normalize_floats(self, images: Array) -> Array:
    """As `normalize`, for float images in [0, 1], as exported networks get."""

  def test_views(self, batch: Batch) -> Sequence[Batch]:
    """Normalised batches for evaluation, the batch itself first."""
    return (batch,)

  def merge_views(self, logits: Sequence[Array]) -> Array:
    """Joint logits [..., B, *out] from one array of logits per test view."""
    (only,) = logits
    return only

  def references(self, batch: Batch) -> Mapping[str, Array]:
    """Predictions [B, *out] made without a network, to compare figures with."""
    del batch
    return {}

  @abc.abstractmethod
  def headline_in_step(self, logits: Array, batch: Batch) -> Array:
    """The `in_step` of a training batch: [P] from logits [P, B, *out]."""

  @abc.abstractmethod
  def measure(self, logits: Array, batch: Batch) -> Any:
    """Sums over the examples that are not padding; a tree, traced.

    Args:
      logits: [..., B, *out].
      batch: targets and mask.

    Returns:
      Sums for every leading index, which can be added over batches. A scalar
      belongs to all indices. `Rows` hold values that cannot be summed.
    """

  @abc.abstractmethod
  def figures(self, sums: Any) -> Mapping[str, float]:
    """Figures by name, from the sums of one prediction on the host."""

  @classmethod
  def require_classes(cls) -> None:
    """Raises ConfigError if there are no `choices`."""
    raise ConfigError(f"'{cls.name}' has no classes; leave out --per-class.")

  def choices(self, logits: Array, batch: Batch) -> Choices:
    """The class that logits [..., B, *out] give every example; traced."""
    raise NotImplementedError

  @abc.abstractmethod
  def combine(self, logits: Array) -> Array:
    """Logits of an ensemble, [B, *out], from its members' [M, B, *out]."""

  @abc.abstractmethod
  def diversity_sum(self, logits: Array, batch: Batch) -> Array:
    """Sum over examples of the distance between members [M, B, *out]."""

  def pictures(self, batch: Batch, logits: Array) -> Mapping[str, Picture]:
    """Pictures of a network's predictions beside the truth, by name.

    Args:
      batch: the batch as it comes from the source.
      logits: logits of the network, [B, *out].
    """
    del batch, logits
    return {}

  @classmethod
  @abc.abstractmethod
  def card(cls, info: DataInfo) -> dict[str, Any]:
    """What users of an exported network must know of its output, as JSON."""

  @classmethod
  @abc.abstractmethod
  def asking(
    cls, card: Mapping[str, Any], *, top: int = 5, boxes: Path | None = None
  ) -> Asking:
    """How a network makes predictions for pictures.

    Args:
      card: card of the network.
      top: how many guesses to give, if the network gives several.
      boxes: a file that says where to look in each picture.

    Raises:
      ConfigError: if the task does not use boxes.
      DataError: naming the rule that the file of boxes breaks.
    """


@struct.dataclass
class Rows:
  """Values of every example, for figures that are not means over examples.

  Attributes:
    values: a tree of [..., B, *]; the leading axes are those of the prediction.
    axis: axis of the examples.
  """

  values: Any
  axis: int = struct.field(pytree_node=False)


def total(parts: Iterable[Any]) -> Any:
  """Adds the sums of several batches, on the host, in float64 and int64.

  Rows of the batches are concatenated.
  """
  hosts = [mesh.to_host(part) for part in parts]
  if not hosts:
    return None

  def wide(leaf):
    leaf = np.asarray(leaf)
    return leaf.astype(np.int64 if leaf.dtype.kind == "i" else np.float64)

  def join(*each):
    if isinstance(each[0], Rows):
      axis = each[0].axis
      return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis), *each)
    return sum(map(wide, each[1:]), wide(each[0]))

  return jax.tree.map(join, *hosts, is_leaf=lambda x: isinstance(x, Rows))
