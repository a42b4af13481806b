"""What a method is given beside the outputs: the batch and the step's context.

Part of `okd_jax.core`, by whose name it is used.
"""

from typing import Any

from flax import struct
import jax

Array = jax.Array


@struct.dataclass
class Batch:
  """A batch of examples.

  Attributes:
    image: uint8 [B, H, W, c] from a data source; float, augmented and
      normalised, [B, H, W, c] or with one view a peer [P, B, H, W, c], where a
      network sees it.
    target: what to predict, a tree of [B, ...]. Classification: labels int32
      [B], or probabilities float [B, C], as of smoothed labels and of mixed
      images; for a method whose peers learn `alone`, [P, B, C] too. Keypoints:
      {"maps": [B, h, w, J], "weight": [B, J]}, and which joints count.
    index: int32 [B], position of the example in its split.
    mask: bool [B], False on padding. Only evaluation pads.
  """

  image: Array
  target: Any
  index: Array
  mask: Array


@struct.dataclass
class Context:
  """What a method may know about the moment it is called.

  Attributes:
    epoch: float32 scalar, 0-based; whole unless the ramp-up is per step.
    step: int32 scalar, 0-based.
    rampup: float32 scalar in [0, 1], weight of ramped distillation terms.
    key: random key, folded with the step already.
    num_examples: N, the number of training examples or a little more, such
      that they divide among devices. `Batch.index` lies in [0, N) in training.
    train: whether this is a training step.
    train_labels: int32 [N], the labels of all training examples by their
      index, -1 where there is none that is trained on; None in evaluation and
      for methods that do not need them.
  """

  epoch: Array
  step: Array
  rampup: Array
  key: Array
  num_examples: int = struct.field(pytree_node=False)
  train: bool = struct.field(pytree_node=False)
  train_labels: Array | None = None
