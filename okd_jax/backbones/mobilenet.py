"""MobileNetV2 for small images and for ImageNet.

Sandler et al., `MobileNetV2: Inverted Residuals and Linear Bottlenecks
<https://arxiv.org/abs/1801.04381>`_, 2018, table 2. `mobilenet_v2_10` and
`mobilenet_v2_14` are torchvision's network with width factors 1.0 and 1.4.
`mobilenet_v2_05` has width factor 0.5 and is for images of 32x32, as in Tian et
al., `Contrastive Representation Distillation
<https://arxiv.org/abs/1910.10699>`_, 2020.
"""

from collections.abc import Callable
from fractions import Fraction
import functools

from flax import linen as nn
import jax.numpy as jnp

from okd_jax.backbones.network import Network
from okd_jax.backbones.parts import classifier, conv_bn
from okd_jax.core import Array

# For each stage, groups of blocks: (channels, blocks, stride of the first).
_IMAGENET = (
  ((16, 1, 1), (24, 2, 2)),
  ((32, 3, 2),),
  ((64, 4, 2), (96, 3, 1)),
  ((160, 3, 2), (320, 1, 1)),
)
_SMALL = (((16, 1, 1), (24, 2, 1)), *_IMAGENET[1:])


class Block(nn.Module):
  """Inverted residual block.

  A 1x1 convolution expands the channels, a depthwise 3x3 convolution filters
  them, and another 1x1 convolution projects them to the output.

  Attributes:
    width: number of output channels.
    stride: stride of the 3x3 convolution.
    expansion: factor by which the first convolution expands the channels; None
      leaves that convolution out.
    activation: activation function after the first two convolutions.
    dtype: as in `Network`.
  """

  width: int
  stride: int
  expansion: int | None
  activation: Callable[[Array], Array]
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    conv = functools.partial(conv_bn, train=train, dtype=self.dtype)
    y = x
    inner = x.shape[-1] * (self.expansion or 1)
    if self.expansion is not None:
      y = self.activation(conv(y, inner, 1, 1, name="conv1"))
    y = conv(y, inner, 3, self.stride, groups=inner, name="conv2")
    y = conv(self.activation(y), self.width, 1, 1, name="conv3")
    return x + y if x.shape == y.shape else y


class MobileNetV2(Network, kw_only=True):
  """A stem of stride 2, four stages of inverted residuals, and a wide head.

  Attributes:
    factor: factor of all widths, except that the head keeps at least its 1280
      channels.
    groups: for each stage, groups of blocks: number of channels, number of
      blocks, and stride of the first block.
    multiple: widths are rounded to the nearest multiple of this number, or to
      the next higher one if they would lose more than a tenth.
    expand_first: whether the first block has the expanding convolution, here
      with factor 1.
    activation: activation function; ReLU6 in the paper.
  """

  image_shape = (224, 224, 3)

  factor: Fraction
  groups: tuple[tuple[tuple[int, int, int], ...], ...] = _IMAGENET
  multiple: int = 8
  expand_first: bool = False
  activation: Callable[[Array], Array] = nn.relu6
  split: int = 3

  @property
  def num_stages(self) -> int:
    return len(self.groups)

  def stem(self, x: Array, train: bool) -> Array:
    x = conv_bn(
      x, self._scaled(32), 3, 2, train=train, dtype=self.dtype, name="stem"
    )
    return self.activation(x)

  def stage(self, number: int, x: Array, train: bool) -> Array:
    shapes = [
      (self._scaled(channels), stride if i == 0 else 1)
      for channels, count, stride in self.groups[number - 1]
      for i in range(count)
    ]
    for i, (width, stride) in enumerate(shapes):
      expansion: int | None = 6
      if number == 1 and i == 0:
        expansion = 1 if self.expand_first else None
      x = Block(
        width,
        stride,
        expansion,
        self.activation,
        dtype=self.dtype,
        name=f"stage{number}_block{i}",
      )(x, train)
    return x

  def head(self, x: Array, train: bool) -> tuple[Array, Array, Array]:
    width = max(self._scaled(1280), 1280)
    x = conv_bn(x, width, 1, 1, train=train, dtype=self.dtype, name="head_conv")
    x = self.activation(x)
    features = jnp.mean(x, (1, 2))
    logits = classifier(
      features,
      self.num_classes,
      kernel_init=nn.initializers.normal(0.01),
      dtype=self.dtype,
    )
    return x, features, logits

  def _scaled(self, width: int) -> int:
    exact = width * self.factor
    half = Fraction(self.multiple, 2)
    rounded = max(int((exact + half) // self.multiple), 1) * self.multiple
    return rounded + self.multiple * (10 * rounded < 9 * exact)


class SmallMobileNetV2(MobileNetV2, kw_only=True):
  """MobileNetV2 for images of 32x32."""

  image_shape = (32, 32, 3)


mobilenet_v2_05 = functools.partial(
  SmallMobileNetV2,
  factor=Fraction("0.5"),
  groups=_SMALL,
  multiple=1,
  expand_first=True,
  activation=nn.relu,
)
mobilenet_v2_10 = functools.partial(MobileNetV2, factor=Fraction(1))
mobilenet_v2_14 = functools.partial(MobileNetV2, factor=Fraction("1.4"))
