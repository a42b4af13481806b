"""The interface of all data sources and what they share."""

import abc
from collections.abc import Iterator, Sequence
from typing import Any, NotRequired, TypedDict, Unpack
import zlib

import jax
from jax.sharding import Mesh
import numpy as np

from okd_jax import core
from okd_jax.batch import has_views
from okd_jax.data import checks, order
from okd_jax.data.info import DataSet
from okd_jax.devices import mesh as mesh_lib
from okd_jax.errors import ConfigError, DataError

# Fixed, so that every run holds out the same examples.
_VALIDATION, _SUBSET, _HELD_OUT = 0x0A11, 0x0A12, 0x0A13


def divide(
  labels: np.ndarray,
  *,
  validation: float,
  train_examples: int,
  held_out: float,
  groups: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
  """Divides a training split, each class in proportion.

  The validation set is taken from the whole split, so it is the same for every
  `train_examples`. Then `train_examples` are chosen from the rest, and of
  those the held-out fraction is removed. The choice does not depend on the
  seed of a run.

  Args:
    labels: int [N].
    validation: fraction of N to validate on.
    train_examples: how many of the rest to use; 0 for all.
    held_out: fraction of the used examples kept for `core.Method.refresh`.
    groups: int [N], examples with the same number always stay in one part;
      fractions are then of the groups. None if each example is its own group.

  Returns:
    int32 positions, in rising order, of "validation", "held_out" and "train".

  Raises:
    ConfigError: if there are too few examples for what is asked.
  """
  num_classes = len(np.unique(labels))
  chosen, rest = _take(
    labels, groups, "config.data.validation", validation, _VALIDATION
  )
  parts = {"validation": chosen}
  _require_some(rest, validation, held_out)
  if train_examples:
    if not num_classes <= train_examples <= len(rest):
      raise ConfigError(
        f"config.data.train_examples={train_examples} must be 0 (all) or lie "
        f"between {num_classes}, one a class, and {len(rest)}, the size of the "
        "training set without validation; change it."
      )
    rest = rest[order.stratified(labels[rest], train_examples, _SUBSET)[0]]
  of_rest = None if groups is None else groups[rest]
  chosen, kept = _take(labels[rest], of_rest, "held_out", held_out, _HELD_OUT)
  parts |= {"held_out": rest[chosen], "train": rest[kept]}
  _require_some(parts["train"], validation, held_out)
  return parts


def _require_some(left: np.ndarray, validation: float, held_out: float) -> None:
  if not len(left):
    raise ConfigError(
      f"config.data.validation={validation} and held_out={held_out} leave no "
      "training example; lower them."
    )


def _take(
  labels: np.ndarray,
  groups: np.ndarray | None,
  setting: str,
  fraction: float,
  purpose: int,
) -> tuple[np.ndarray, np.ndarray]:
  """A fraction of the examples and the rest, see `order.stratified`."""
  if groups is None:
    count = checks.share(setting, fraction, len(labels), "training examples")
    return order.stratified(labels, count, purpose)
  numbers, group = np.unique(groups, return_inverse=True)
  count = checks.share(setting, fraction, len(numbers), "training pictures")
  chosen, _ = order.stratified(np.zeros(len(numbers), int), count, purpose)
  taken = np.isin(group, chosen)
  return (
    np.flatnonzero(taken).astype(np.int32),
    np.flatnonzero(~taken).astype(np.int32),
  )


class Batching(TypedDict):
  """How a source divides its examples into batches.

  Attributes:
    batch_size: batch size of training, over all devices.
    eval_batch_size: batch size of evaluation, over all devices.
    seed: seed of the order of training examples.
    mesh: mesh with axes "data" and "peer"; None for the default device.
    per_class: as in the configuration; 0 by default.
  """

  batch_size: int
  eval_batch_size: int
  seed: int
  mesh: Mesh | None
  per_class: NotRequired[int]


class Source(abc.ABC):
  """Batches of one data set, on the devices.

  Images are uint8 [B, H, W, c], or [P, B, H, W, c] in training if the source
  makes the views; targets are int32 [B], or those of the task; index, int32
  [B], is the position in the publisher's training split (test split for
  "test"), in the order of the copy in use; positions in a validation split of
  the publisher follow those of the training split; mask is False on padding.
  With a mesh, all are split over its "data" axis.

  Attributes:
    info: what is known about the data set.
    positions: int32 positions of each split: "train", "validation",
      "held_out" and "test".
    batch_size: batch size B of training.
    eval_batch_size: batch size B of evaluation.
    notes: as in `okd_jax.data.info.DataSet`.
    files: likewise.
    image_names: likewise.
  """

  def __init__(
    self,
    data: DataSet[Any],
    positions: dict[str, np.ndarray],
    **batching: Unpack[Batching],
  ):
    """Keeps what all sources share.

    Args:
      data: the data set.
      positions: positions of each split.
      **batching: the fields of `Batching`.
    """
    self.info = data.info
    self.positions = positions
    self.notes, self.files = data.notes, data.files
    self.image_names = data.image_names
    self._labels = data.train.labels
    self.batch_size = batching["batch_size"]
    self.eval_batch_size = batching["eval_batch_size"]
    self._seed = batching["seed"]
    self._mesh = batching["mesh"]
    self._per_class = batching.get("per_class", 0)
    self._members = self._classes() if self._per_class else []

  @property
  def train_size(self) -> int:
    """The number of examples trained on."""
    return len(self.positions["train"])

  @property
  def labels_sum(self) -> int:
    """CRC-32 of the publisher's training labels, which tells their order."""
    return zlib.crc32(self._labels.astype("<i4").tobytes())

  def names_in(self, split: str) -> Sequence[str]:
    """Names of the files of a split by `Batch.index`, see `image_names`."""
    return self.image_names.get("test" if split == "test" else "train", ())

  def train_labels(self, size: int) -> np.ndarray:
    """Labels by `Batch.index`, int32 [size], -1 for examples not trained on."""
    labels = np.full(size, -1, np.int32)
    rows = self.positions["train"]
    labels[rows] = self._labels[rows]
    return labels

  def order(self, step: int) -> np.ndarray:
    """Returns `index` of the batch of a global step, int32 [B]."""
    if self._per_class:
      return order.balanced(
        self._seed, step, self.batch_size, self._members, self._per_class
      )
    chosen = order.indices(self._seed, step, self.batch_size, self.train_size)
    return self.positions["train"][chosen]

  def _classes(self) -> list[np.ndarray]:
    """Positions of the training examples of each class."""
    rows = self.positions["train"]
    sizes = np.bincount(self._labels[rows], minlength=self.info.num_classes)
    by_class = rows[np.argsort(self._labels[rows], kind="stable")]
    return np.split(by_class, np.cumsum(sizes)[:-1])

  @abc.abstractmethod
  def batches(self, first_step: int) -> Iterator[core.Batch]:
    """Yields the training batches of a global step and all after it."""

  @abc.abstractmethod
  def evaluation(self, split: str) -> Iterator[core.Batch]:
    """Yields every example of "test", "validation" or "held_out" once.

    The last batch is filled up with the first example, where mask is False.

    Raises:
      DataError: if the split is empty.
    """

  def _evaluation_rows(
    self, split: str
  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    positions = self.positions[split]
    if not len(positions):
      raise DataError(
        f"split '{split}' of {self.info.name} is empty; one example at least "
        "was expected. Set config.data.validation, or a method's held_out, to "
        "a positive fraction."
      )
    size = self.eval_batch_size
    for start in range(0, len(positions), size):
      part = positions[start : start + size]
      padding = size - len(part)
      rows = np.concatenate([part, np.repeat(positions[:1], padding)])
      yield rows, np.arange(size) < len(part)


def local_slots(mesh: Mesh | None, size: int, axis: str = "data") -> np.ndarray:
  """Returns which parts of an axis this process must load, rising."""
  slots = np.arange(size)
  if mesh is None:
    return slots
  parts = mesh_lib.sharding(mesh, axis).addressable_devices_indices_map((size,))
  mine = np.zeros(size, bool)
  for part in parts.values():
    assert part is not None, "every local device holds a part"
    mine[part] = True
  return slots[mine]


def to_devices(
  local: core.Batch,
  mesh: Mesh | None,
  size: int,
  num_views: int | None = None,
) -> core.Batch:
  """Puts this process's part of a batch of `size` examples on the devices.

  Args:
    local: this process's part of the batch, with images [P, B, H, W, c] if
      there are views; it holds only the views that its devices see.
    mesh: the devices; None for the default one.
    size: size of the whole batch.
    num_views: number P of views; None without that axis.
  """
  if mesh is None:
    return jax.device_put(local)

  def put(x, leading, axes):
    return jax.make_array_from_process_local_data(
      mesh_lib.sharding(mesh, *axes), x, (*leading, *x.shape[len(leading) :])
    )

  placed = {
    name: jax.tree.map(
      lambda leaf: put(leaf, (size,), ("data",)), getattr(local, name)
    )
    for name in ("target", "index", "mask")
  }
  if has_views(local.image):
    image = put(local.image, (num_views, size), ("peer", "data"))
  else:
    image = put(local.image, (size,), ("data",))
  return core.Batch(image=image, **placed)
