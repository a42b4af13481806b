"""Classification: one class per example, by labels or by probabilities."""

import dataclasses
from typing import Any, ClassVar

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from okd_jax import losses
from okd_jax.core import Array, Batch
from okd_jax.data import mixing
from okd_jax.data.augment import augment, normalize
from okd_jax.data.augmentation import Augment, PLAIN
from okd_jax.data.info import DataInfo
from okd_jax.errors import ConfigError
from okd_jax.tasks import class_answers, task
from okd_jax.tasks.choices import Choices
from okd_jax.tasks.measure import Measure

NUM_BINS = 15
_APART = 2**30


@struct.dataclass
class Sums:
  """Sums over the examples of a batch that are not padding.

  Attributes:
    count: int32 scalar.
    correct: int32 [...], examples whose label is the first choice. The label
      of soft targets is the most probable class.
    correct_top5: int32 [...], examples whose label is among the first five.
    cross_entropy: float [...], in nats.
    bin_count: int32 [..., bins], examples by confidence of the first choice.
    bin_confidence: float [..., bins], sums of their confidences.
    bin_correct: int32 [..., bins], the correct ones among them.
  """

  count: Array
  correct: Array
  correct_top5: Array
  cross_entropy: Array
  bin_count: Array
  bin_confidence: Array
  bin_correct: Array


@dataclasses.dataclass(frozen=True)
class Task(task.Task):
  """Tells classes apart.

  Attributes:
    num_classes: number C of classes.
    image_shape: (height, width, channels).
    image_dtype: dtype of the images that networks see.
    info: facts about a data set whose uint8 images are padded, cropped, flipped
      and normalised here. Without it batches hold floats that networks get
      unchanged, [B, H, W, c] or, in training, one view per peer
      [P, B, H, W, c].
    pad_mode: how images are padded before the crop, as in
      `okd_jax.data.augment`.
    augmentation: other random changes of those images, and of targets.
    smoothing: share of every target that is spread over all classes.
    class_weights: weight in the loss of the examples of each class, which label
      smoothing does not change; empty gives all a weight of 1. An example of
      several classes has the mean of their weights by its probabilities.

  Raises:
    ConfigError: if there are weights, but not one per class, or an augmentation
      without `info`.
  """

  name: ClassVar[str] = "classification"
  measures: ClassVar[tuple[Measure, ...]] = (
    Measure("accuracy", "top-1", counts="correct"),
    Measure("accuracy_top5", "top-5", counts="correct_top5", min_classes=6),
    Measure(
      "cross_entropy", "cross-entropy", higher_is_better=False, fraction=False
    ),
    Measure(
      "calibration_error",
      "calibration error",
      higher_is_better=False,
      fraction=False,
    ),
  )

  num_classes: int
  image_shape: tuple[int, int, int]
  image_dtype: Any = jnp.float32
  info: DataInfo | None = None
  pad_mode: str = "constant"
  augmentation: Augment = PLAIN
  smoothing: float = 0.0
  class_weights: tuple[float, ...] = ()

  def __post_init__(self) -> None:
    if len(self.class_weights) not in (0, self.num_classes):
      raise ConfigError(
        f"config.class_weights has {len(self.class_weights)} numbers, and the "
        f"data have {self.num_classes} classes; give one for each, or none."
      )
    if self.info is None and self.augmentation != PLAIN:
      raise ConfigError(
        f"augmentation={self.augmentation} needs facts about the data, such as "
        "whether pictures may be mirrored; give `info`, or augment the batches "
        "yourself."
      )

  @classmethod
  def of(cls, info, *, pad_mode="constant", image_dtype=jnp.float32):
    return cls(info.num_classes, info.image_shape, image_dtype, info, pad_mode)

  def changed(self, augmentation, smoothing, class_weights):
    return dataclasses.replace(
      self,
      augmentation=augmentation,
      smoothing=smoothing,
      class_weights=class_weights,
    )

  def out_shape(self):
    return (self.num_classes,)

  def blank(self, size):
    return Batch(
      image=jnp.zeros((size, *self.image_shape), self.image_dtype),
      target=jnp.zeros(size, jnp.int32),
      index=jnp.zeros(size, jnp.int32),
      mask=jnp.ones(size, bool),
    )

  def augment(self, batch, key, *, num_views, mesh):
    if self.info is None:
      target = self._soft(batch.target)
      return dataclasses.replace(self.normalize(batch), target=target)
    image = augment(
      batch.image,
      key,
      info=self.info,
      num_views=num_views,
      pad_mode=self.pad_mode,
      dtype=self.image_dtype,
      mesh=mesh,
      how=self.augmentation,
    )
    target = self._soft(batch.target)
    if self.augmentation.mixes:
      # Far from the draws for single pictures, which count from the same key.
      mix_key = jax.random.fold_in(key, _APART)
      image, target = mixing.mix(image, target, mix_key, how=self.augmentation)
    return dataclasses.replace(batch, image=image, target=target)

  def _soft(self, target):
    """Probabilities, where labels are smoothed or mixed."""
    if not (self.smoothing or self.augmentation.mixes):
      return target
    if target.ndim == 1:
      wide = jnp.promote_types(self.image_dtype, jnp.float32)
      target = jax.nn.one_hot(target, self.num_classes, dtype=wide)
    return (1 - self.smoothing) * target + self.smoothing / self.num_classes

  @property
  def per_peer(self):
    return self.augmentation.mixes and self.augmentation.mix_per_peer

  def weights(self, batch):
    if not self.class_weights:
      return 1.0
    table = jnp.asarray(self.class_weights, jnp.float32)
    if jnp.issubdtype(batch.target.dtype, jnp.integer):
      return table[batch.target]
    mean = jnp.matmul(batch.target, table, precision=jax.lax.Precision.HIGHEST)
    if self.smoothing:
      # An example counts as its own class does, however its label is smoothed.
      mean -= self.smoothing * jnp.mean(table)
      mean = jnp.maximum(mean / (1 - self.smoothing), 0)
    return mean

  def normalize(self, batch):
    if self.info is None:
      image = batch.image.astype(self.image_dtype)
    else:
      image = normalize(batch.image, self.info, self.image_dtype)
    return dataclasses.replace(batch, image=image)

  def normalize_floats(self, images):
    if self.info is not None:
      mean, std = (jnp.asarray(x) for x in (self.info.mean, self.info.std))
      images = (images - mean) / std
    return images.astype(self.image_dtype)

  def headline_in_step(self, logits, batch):
    return jnp.mean(jnp.argmax(logits, -1) == _labels(batch), -1)

  def measure(self, logits, batch):
    labels = _labels(batch)
    log_probs = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(
      log_probs,
      jnp.broadcast_to(labels, logits.shape[:-1])[..., None],
      axis=-1,
    )
    # Ties count against the label unless it comes first, as in argmax.
    before = jnp.arange(logits.shape[-1]) < labels[:, None]
    rank = jnp.sum((log_probs > picked) | ((log_probs == picked) & before), -1)
    # A not-a-number compares false with everything and would rank first.
    valid = batch.mask & ~jnp.isnan(picked[..., 0])
    correct = (rank == 0) & valid
    confidence = jnp.exp(jnp.max(log_probs, -1))
    bins = jnp.clip((confidence * NUM_BINS).astype(jnp.int32), 0, NUM_BINS - 1)
    member = jax.nn.one_hot(bins, NUM_BINS, dtype=bool) & batch.mask[:, None]
    nats = -picked[..., 0]
    if batch.target.ndim == 2:
      # A class without probability counts nothing, however unlikely it is.
      weighted = jnp.where(batch.target > 0, batch.target * log_probs, 0)
      nats = -jnp.sum(weighted, -1)
    return Sums(
      count=jnp.sum(batch.mask, dtype=jnp.int32),
      correct=jnp.sum(correct, -1, dtype=jnp.int32),
      correct_top5=jnp.sum((rank < 5) & valid, -1, dtype=jnp.int32),
      cross_entropy=jnp.sum(jnp.where(batch.mask, nats, 0), -1),
      bin_count=jnp.sum(member, -2, dtype=jnp.int32),
      bin_confidence=jnp.sum(jnp.where(member, confidence[..., None], 0), -2),
      bin_correct=jnp.sum(member & correct[..., None], -2, dtype=jnp.int32),
    )

  def figures(self, sums):
    count = max(int(sums.count), 1)
    # The expected calibration error over the bins.
    gaps = np.abs(sums.bin_correct - sums.bin_confidence)
    return {
      "accuracy": float(sums.correct / count),
      "accuracy_top5": float(sums.correct_top5 / count),
      "cross_entropy": float(sums.cross_entropy / count),
      "calibration_error": float(gaps.sum() / count),
    }

  @classmethod
  def require_classes(cls):
    pass

  def choices(self, logits, batch):
    probabilities = jax.nn.softmax(logits)
    return Choices(
      label=_labels(batch).astype(jnp.int32),
      index=batch.index,
      mask=batch.mask,
      first=jnp.argmax(logits, -1).astype(jnp.int32),
      confidence=jnp.max(probabilities, -1),
    )

  def combine(self, logits):
    return jnp.mean(logits, 0)

  def diversity_sum(self, logits, batch):
    """Sum over examples of the distance; 0 for fewer than two members."""
    if logits.shape[0] < 2:
      return jnp.zeros((), logits.dtype)
    return jnp.sum(jnp.where(batch.mask, losses.peer_diversity(logits), 0))

  @classmethod
  def card(cls, info):
    return {
      "num_classes": info.num_classes,
      "classes": list(info.class_names),
      "output": "float32 [batch, num_classes], logits",
    }

  @classmethod
  def asking(cls, card, *, top=5, boxes=None):
    if boxes is not None:
      raise ConfigError(
        "a network that tells classes apart looks at whole pictures; leave "
        "--boxes out."
      )
    return class_answers.Asking(card, top)


def _labels(batch: Batch) -> Array:
  """Labels [B]; of probabilities [..., B, C] the most probable classes."""
  target: Array = batch.target
  return jnp.argmax(target, -1) if target.ndim > 1 else target
