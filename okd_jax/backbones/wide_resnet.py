"""Wide residual networks for small images.

Zagoruyko and Komodakis, `Wide Residual Networks
<https://arxiv.org/abs/1605.07146>`_, 2016, with basic blocks: `wrn40_2` has 40
layers, and its stages are twice as wide as those of a ResNet. `wrn20_8`, the
bottleneck network of papers on online distillation, is in `resnet`.
"""

import functools

from flax import linen as nn
import jax.numpy as jnp

from okd_jax import layers
from okd_jax.backbones.network import Network
from okd_jax.backbones.parts import bn_relu, classifier
from okd_jax.core import Array


class Block(nn.Module):
  """Residual block with batch norm and ReLU before each convolution.

  If the shape changes, the shortcut is a 1x1 convolution of the input after its
  batch norm and ReLU.
  """

  width: int
  stride: int
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    active = bn_relu(x, train=train, dtype=self.dtype, name="bn1")
    y = self._conv(3, self.stride, "conv1")(active)
    y = bn_relu(y, train=train, dtype=self.dtype, name="bn2")
    y = self._conv(3, 1, "conv2")(y)
    if x.shape != y.shape:
      x = self._conv(1, self.stride, "proj")(active)
    return x + y

  def _conv(self, size, stride, name) -> nn.Conv:
    return layers.conv(self.width, size, stride, dtype=self.dtype, name=name)


class WideResNet(Network, kw_only=True):
  """A stem of one 3x3 convolution, and three stages of residual blocks.

  The maps of the stages are not normalised. The head applies batch norm and
  ReLU to the last one before pooling.

  Attributes:
    blocks: number of blocks of a stage. Stages after the first halve height and
      width.
    widen: factor by which the stages are wider than 16, 32 and 64 channels.
  """

  blocks: int
  widen: int
  split: int = 2

  @property
  def num_stages(self) -> int:
    return 3

  def stem(self, x: Array, train: bool) -> Array:
    del train
    return layers.conv(16, 3, dtype=self.dtype, name="stem")(x)

  def stage(self, number: int, x: Array, train: bool) -> Array:
    width = 2 ** (number + 3) * self.widen
    for i in range(self.blocks):
      stride = 2 if number > 1 and i == 0 else 1
      x = Block(
        width, stride, dtype=self.dtype, name=f"stage{number}_block{i}"
      )(x, train)
    return x

  def head(self, x: Array, train: bool) -> tuple[Array, Array, Array]:
    x = bn_relu(x, train=train, dtype=self.dtype, name="head_bn")
    features = jnp.mean(x, (1, 2))
    return x, features, classifier(features, self.num_classes, dtype=self.dtype)


wrn16_1 = functools.partial(WideResNet, blocks=2, widen=1)
wrn16_2 = functools.partial(WideResNet, blocks=2, widen=2)
wrn16_8 = functools.partial(WideResNet, blocks=2, widen=8)
wrn16_10 = functools.partial(WideResNet, blocks=2, widen=10)
wrn28_4 = functools.partial(WideResNet, blocks=4, widen=4)
wrn40_1 = functools.partial(WideResNet, blocks=6, widen=1)
wrn40_2 = functools.partial(WideResNet, blocks=6, widen=2)
