"""What a method receives besides the outputs: batch and context of the step.

It is part of `okd_jax.core` and is used under that name.
"""

from typing import Any

from flax import struct
import jax

Array = jax.Array


@struct.dataclass
class Batch:
  """A batch of examples.

  Attributes:
    image: uint8 [B, H, W, c] as from a data source; where a network receives
      it, augmented and normalised floats, [B, H, W, c] or, with one view per
      peer, [P, B, H, W, c].
    target: what to predict, a tree of [B, ...]. Classification: labels int32
      [B], or probabilities float [B, C], for example of smoothed labels or
      mixed images; for a method whose peers learn `alone`, also [P, B, C].
      Keypoints: {"maps": [B, h, w, J], "weight": [B, J]} and which joints
      count.
    index: int32 [B], position of the example in its split.
    mask: bool [B], False on padding. Only evaluation pads.
  """

  image: Array
  target: Any
  index: Array
  mask: Array


@struct.dataclass
class Context:
  """What a method may know about the step in which it is called.

  Attributes:
    epoch: float32 scalar, 0-based; whole unless the ramp-up is per step.
    step: int32 scalar, 0-based.
    rampup: float32 scalar in [0, 1], weight of ramped distillation terms.
    key: random key, already folded with the step.
    num_examples: N, the number of training examples, rounded up so that it can
      be divided among most numbers of devices. `Batch.index` lies in [0, N) in
      training.
    train: whether this is a training step.
    train_labels: int32 [N], the labels of all training examples by their
      index, -1 where no example is trained on; None in evaluation and for
      methods that do not need them.
  """

  epoch: Array
  step: Array
  rampup: Array
  key: Array
  num_examples: int = struct.field(pytree_node=False)
  train: bool = struct.field(pytree_node=False)
  train_labels: Array | None = None


def has_views(images: Any) -> bool:
  """Whether images are one view per peer, [P, B, H, W, c], not [B, H, W, c]."""
  return images.ndim == 5
