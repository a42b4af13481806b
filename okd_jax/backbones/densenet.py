"""Densely connected networks for small images.

Huang et al., `Densely Connected Convolutional Networks
<https://arxiv.org/abs/1608.06993>`_, 2017: DenseNet-BC.
"""

import functools

from flax import linen as nn
import jax.numpy as jnp

from okd_jax import layers
from okd_jax.backbones.compressible import Compressible
from okd_jax.backbones.parts import bn_relu, classifier
from okd_jax.core import Array

_conv = functools.partial(layers.conv, kernel_init=layers.he_fan_in)


class DenseLayer(nn.Module):
  """Appends `growth` channels to its input, computed through a bottleneck."""

  growth: int
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    y = x
    shapes = ((4 * self.growth, 1), (self.growth, 3))
    for i, (width, size) in enumerate(shapes, 1):
      y = bn_relu(y, train=train, dtype=self.dtype, name=f"bn{i}")
      y = _conv(width, size, dtype=self.dtype, name=f"conv{i}")(y)
    return jnp.concatenate([x.astype(y.dtype), y], axis=-1)


class Transition(nn.Module):
  """Halves channels, height and width."""

  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    x = bn_relu(x, train=train, dtype=self.dtype, name="bn")
    x = _conv(x.shape[-1] // 2, 1, dtype=self.dtype, name="conv")(x)
    return nn.avg_pool(x, (2, 2), (2, 2))


class DenseNet(Compressible, kw_only=True):
  """Dense blocks with transitions between them.

  A transition belongs to the same stage as the block before it. By default,
  each branch of a split network has its own last block. With `split=3`, as in
  OKDDip's code, all blocks are shared, and a branch has only its own last batch
  norm and classifier.

  Attributes:
    blocks: number of layers of each dense block.
    growth: number of channels that a layer adds; `tail_width` applies to it.
      The stem has twice as many channels.
  """

  blocks: tuple[int, ...]
  growth: int
  split: int = 2

  @property
  def num_stages(self) -> int:
    return len(self.blocks)

  def stem(self, x: Array, train: bool) -> Array:
    del train
    return _conv(2 * self.growth, 3, dtype=self.dtype, name="stem")(x)

  def stage(self, number: int, x: Array, train: bool) -> Array:
    growth = self.width_in(number, self.growth)
    for i in range(self.blocks[number - 1]):
      x = DenseLayer(growth, dtype=self.dtype, name=f"stage{number}_layer{i}")(
        x, train
      )
    if number < self.num_stages:
      x = Transition(dtype=self.dtype, name=f"stage{number}_transition")(
        x, train
      )
    return x

  def head(self, x: Array, train: bool) -> tuple[Array, Array, Array]:
    x = bn_relu(x, train=train, dtype=self.dtype, name="head_bn")
    features = jnp.mean(x, (1, 2))
    logits = classifier(features, self.num_classes, dtype=self.dtype)
    return x, features, logits

  def narrowest(self) -> int:
    return self.growth


densenet40_12 = functools.partial(DenseNet, blocks=(6, 6, 6), growth=12)
densenetbc100_12 = functools.partial(DenseNet, blocks=(16, 16, 16), growth=12)
