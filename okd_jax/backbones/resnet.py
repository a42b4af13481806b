"""Residual networks for small images, and the base of those for ImageNet.

He et al., `Deep Residual Learning for Image Recognition
<https://arxiv.org/abs/1512.03385>`_, 2016, with projection shortcuts (type B).
`resnet110` and `wrn20_8` are the bottleneck networks that papers on online
distillation publish under these names; `resnet110_basic` is the ResNet-110 of
He et al. `resnet8x4` and `resnet32x4` are the wider networks of Tian et al.,
`Contrastive Representation Distillation <https://arxiv.org/abs/1910.10699>`_,
2020.
"""

import functools

from flax import linen as nn
import jax.numpy as jnp

from okd_jax.backbones.compressible import Compressible
from okd_jax.backbones.parts import conv_bn, torch_classifier
from okd_jax.core import Array


class Block(nn.Module):
  """Residual block with batch norm after each convolution.

  ReLU comes between the convolutions and after the sum with the shortcut.

  Attributes:
    widths: output channels of the convolutions: of two 3x3 (basic block), or of
      1x1, 3x3 and 1x1 (bottleneck block).
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


class ResNet(Compressible, kw_only=True):
  """A stem of one 3x3 convolution, and stages of residual blocks.

  Attributes:
    blocks: number of blocks of each stage. Stages after the first halve height
      and width.
    widths: output channels of each stage.
    inner_widths: for each stage, channels inside its bottleneck blocks; None
      for basic blocks.
    stem_width: output channels of the stem.
  """

  blocks: tuple[int, ...]
  widths: tuple[int, ...]
  inner_widths: tuple[int, ...] | None
  stem_width: int = 16
  split: int = 2

  @property
  def num_stages(self) -> int:
    return len(self.blocks)

  def stem(self, x: Array, train: bool) -> Array:
    x = conv_bn(
      x, self.stem_width, 3, 1, train=train, dtype=self.dtype, name="stem"
    )
    return nn.relu(x)

  def stage(self, number: int, x: Array, train: bool) -> Array:
    width = self.widths[number - 1]
    if self.inner_widths is None:
      widths: tuple[int, ...] = (width, width)
    else:
      inner = self.inner_widths[number - 1]
      widths = (inner, inner, width)
    widths = tuple(self.width_in(number, width) for width in widths)
    for i in range(self.blocks[number - 1]):
      stride = 2 if number > 1 and i == 0 else 1
      x = Block(
        widths, stride, dtype=self.dtype, name=f"stage{number}_block{i}"
      )(x, train)
    return x

  def head(self, x: Array, train: bool) -> tuple[Array, Array, Array]:
    del train
    features = jnp.mean(x, (1, 2))
    logits = torch_classifier(features, self.num_classes, dtype=self.dtype)
    return x, features, logits

  def narrowest(self) -> int:
    return min((*self.widths, *(self.inner_widths or ())))


_basic = functools.partial(ResNet, widths=(16, 32, 64), inner_widths=None)
_bottleneck = functools.partial(ResNet, widths=(64, 128, 256))

resnet8 = functools.partial(_basic, blocks=(1, 1, 1))
resnet20 = functools.partial(_basic, blocks=(3, 3, 3))
resnet32 = functools.partial(_basic, blocks=(5, 5, 5))
resnet44 = functools.partial(_basic, blocks=(7, 7, 7))
resnet56 = functools.partial(_basic, blocks=(9, 9, 9))
resnet110_basic = functools.partial(_basic, blocks=(18, 18, 18))
resnet110 = functools.partial(
  _bottleneck, blocks=(12, 12, 12), inner_widths=(16, 32, 64)
)
wrn20_8 = functools.partial(
  _bottleneck, blocks=(2, 2, 2), inner_widths=(128, 256, 512)
)

_times_4 = functools.partial(
  ResNet, stem_width=32, widths=(64, 128, 256), inner_widths=None
)
resnet8x4 = functools.partial(_times_4, blocks=(1, 1, 1))
resnet32x4 = functools.partial(_times_4, blocks=(5, 5, 5))
