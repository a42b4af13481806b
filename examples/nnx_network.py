"""A network of flax nnx, trained by name.

    python main.py --config=configs/okddip_digits.py:smoke \\
      --config.peers.net=examples.nnx_network:Small

The class is made with `num_classes` and `rngs` and called as `net(images)`.
Layers are put into training or evaluation mode before the call. In training
batch normalisation sees the whole batch, and dropout does not depend on the
number of devices.
"""

from flax import nnx
import jax.numpy as jnp


class Small(nnx.Module):
  """Returns logits [B, C] and features [B, D].

  The argument `part` lets branches share the first convolution
  (`--config.peers.kind=branches`): a trunk and a tail make the layers that
  they run, under the names that these have in the whole network.
  """

  def __init__(self, num_classes, *, part="whole", dtype=None, rngs):
    self.part = part
    if part != "tail":
      self.conv1 = nnx.Conv(
        1, 8, (3, 3), use_bias=False, dtype=dtype, rngs=rngs
      )
      self.norm1 = nnx.BatchNorm(8, momentum=0.9, dtype=dtype, rngs=rngs)
    if part != "trunk":
      self.conv2 = nnx.Conv(
        8, 16, (3, 3), strides=2, use_bias=False, dtype=dtype, rngs=rngs
      )
      self.norm2 = nnx.BatchNorm(16, momentum=0.9, dtype=dtype, rngs=rngs)
      self.dropout = nnx.Dropout(0.1, rngs=rngs)
      self.head = nnx.Linear(16, num_classes, dtype=dtype, rngs=rngs)

  def __call__(self, x):
    if self.part != "tail":
      x = nnx.relu(self.norm1(self.conv1(x)))
    if self.part == "trunk":
      return x
    x = nnx.relu(self.norm2(self.conv2(x)))
    features = jnp.mean(x, (1, 2))
    return self.head(self.dropout(features)), features
