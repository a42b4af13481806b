"""Residual networks for small images, and what all residual networks share.

He et al., `Deep Residual Learning for Image Recognition
<https://arxiv.org/abs/1512.03385>`_, 2016, with projection shortcuts (type B).
`resnet110` and `wrn20_8` are the bottleneck networks that online distillation
papers publish under those names; `resnet110_basic` is He et al.'s ResNet-110.
"""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from okd_jax import layers
from okd_jax.backbones.network import Network

Array = jax.Array


class Block(nn.Module):
  """Residual block: normalises after each convolution, activates after adding.

  Attributes:
    widths: output channels of the convolutions: two of 3x3 (basic), or 1x1,
      3x3 and 1x1 (bottleneck).
    stride: stride of the first 3x3 convolution and of the shortcut.
    dtype: as in `Network`.
  """

  widths: tuple[int, ...]
  stride: int
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    bottleneck = len(self.widths) == 3
    sizes = (1, 3, 1) if bottleneck else (3, 3)
    strides = (1, self.stride, 1) if bottleneck else (self.stride, 1)
    y = x
    for i, shape in enumerate(zip(self.widths, sizes, strides, strict=True), 1):
      y = nn.relu(y) if i > 1 else y
      y = conv_bn(y, *shape, train=train, dtype=self.dtype, name=f"conv{i}")
    if x.shape != y.shape:
      x = conv_bn(
        x,
        self.widths[-1],
        1,
        self.stride,
        train=train,
        dtype=self.dtype,
        name="proj",
      )
    return nn.relu(x + y)


class ResNet(Network, kw_only=True):
  """Stem of one 3x3 convolution and stages of residual blocks.

  Attributes:
    blocks: number of blocks of each stage. Stages after the first halve height
      and width.
    widths: output channels of each stage.
    inner_widths: channels inside the bottleneck blocks of each stage; None for
      basic blocks.
  """

  blocks: tuple[int, ...]
  widths: tuple[int, ...]
  inner_widths: tuple[int, ...] | None
  split: int = 2

  @property
  def num_stages(self) -> int:
    return len(self.blocks)

  def stem(self, x: Array, train: bool) -> Array:
    """Returns the map that enters the first block."""
    x = conv_bn(x, 16, 3, 1, train=train, dtype=self.dtype, name="stem")
    return nn.relu(x)

  def stage(self, number: int, x: Array, train: bool) -> Array:
    if number == 1:
      x = self.stem(x, train)
    width = self.widths[number - 1]
    if self.inner_widths is None:
      widths: tuple[int, ...] = (width, width)
    else:
      inner = self.inner_widths[number - 1]
      widths = (inner, inner, width)
    for i in range(self.blocks[number - 1]):
      stride = 2 if number > 1 and i == 0 else 1
      x = Block(
        widths, stride, dtype=self.dtype, name=f"stage{number}_block{i}"
      )(x, train)
    return x

  def head(self, x: Array, train: bool) -> tuple[Array, Array, Array]:
    del train
    features = jnp.mean(x, (1, 2))
    logits = nn.Dense(
      self.num_classes,
      kernel_init=layers.uniform_fan_in,
      bias_init=layers.uniform_bias(features.shape[-1]),
      dtype=self.dtype,
      name="head_linear",
    )(features)
    return x, features, logits


def conv_bn(x, features, size, stride, *, train, dtype, name) -> Array:
  """Convolution and batch normalisation, named `name` and `name`_bn."""
  x = layers.conv(features, size, stride, dtype=dtype, name=name)(x)
  bn = layers.BatchNorm(dtype=dtype, name=f"{name}_bn")
  return bn(x, use_running_average=not train)


_basic = functools.partial(ResNet, widths=(16, 32, 64), inner_widths=None)
_bottleneck = functools.partial(ResNet, widths=(64, 128, 256))

resnet8 = functools.partial(_basic, blocks=(1, 1, 1))
resnet20 = functools.partial(_basic, blocks=(3, 3, 3))
resnet32 = functools.partial(_basic, blocks=(5, 5, 5))
resnet110_basic = functools.partial(_basic, blocks=(18, 18, 18))
resnet110 = functools.partial(
  _bottleneck, blocks=(12, 12, 12), inner_widths=(16, 32, 64)
)
wrn20_8 = functools.partial(
  _bottleneck, blocks=(2, 2, 2), inner_widths=(128, 256, 512)
)
