"""Networks of your own, trained by name.

    python main.py --config=configs/okddip_digits.py \\
      --config.peers.net=examples.own_network:Small

A network is any linen module that is made with `num_classes` and called as
`net(images, train=...)`. In training its batch normalisation sees the whole
batch, however many devices there are.
"""

from flax import linen as nn
import jax.numpy as jnp


class Small(nn.Module):
  """Returns logits [B, C]; attention and fusion then work on these."""

  num_classes: int

  @nn.compact
  def __call__(self, images, *, train):
    x = nn.Conv(8, (3, 3), strides=2, use_bias=False)(images)
    x = nn.relu(nn.BatchNorm(not train, momentum=0.9)(x))
    return nn.Dense(self.num_classes)(jnp.mean(x, (1, 2)))


class Large(nn.Module):
  """Returns logits [B, C] and features [B, D]."""

  num_classes: int
  width: int = 32

  @nn.compact
  def __call__(self, images, *, train):
    x = nn.Conv(self.width, (3, 3), strides=2, use_bias=False)(images)
    x = nn.relu(nn.BatchNorm(not train, momentum=0.9)(x))
    features = jnp.mean(x, (1, 2))
    x = nn.Dropout(0.1, deterministic=not train)(features)
    return nn.Dense(self.num_classes)(x), features


class Branched(nn.Module):
  """Can be split into a trunk, which branches share, and a tail.

  Trunk and tail together have the variables of the whole network, so layers
  are named.
  """

  num_classes: int
  part: str = "whole"

  @nn.compact
  def __call__(self, x, *, train):
    if self.part != "tail":
      x = nn.Conv(8, (3, 3), use_bias=False, name="conv1")(x)
      x = nn.relu(nn.BatchNorm(not train, momentum=0.9, name="norm1")(x))
    if self.part == "trunk":
      return x
    x = nn.Conv(16, (3, 3), strides=2, use_bias=False, name="conv2")(x)
    x = nn.relu(nn.BatchNorm(not train, momentum=0.9, name="norm2")(x))
    features = jnp.mean(x, (1, 2))
    return nn.Dense(self.num_classes, name="head")(features), features
