"""MobileNetV2, for small images and for those of ImageNet.

Sandler et al., `MobileNetV2: Inverted Residuals and Linear Bottlenecks
<https://arxiv.org/abs/1801.04381>`_, 2018, table 2. `mobilenet_v2_10` and
`mobilenet_v2_14` are torchvision's, 1.0 and 1.4 times as wide.
`mobilenet_v2_05` is the half as wide one for images of 32x32 of Tian et al.,
`Contrastive Representation Distillation <https://arxiv.org/abs/1910.10699>`_,
2020.
"""

from collections.abc import Callable
from fractions import Fraction
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from okd_jax.backbones.network import Network
from okd_jax.backbones.parts import classifier, conv_bn

Array = jax.Array

# Of each stage, groups of blocks: (channels, blocks, stride of the first).
_IMAGENET = (
  ((16, 1, 1), (24, 2, 2)),
  ((32, 3, 2),),
  ((64, 4, 2), (96, 3, 1)),
  ((160, 3, 2), (320, 1, 1)),
)
_SMALL = (((16, 1, 1), (24, 2, 1)), *_IMAGENET[1:])


class Block(nn.Module):
  """Inverted residual: expands, filters each channel, and projects.

  Attributes:
    width: output channels.
    stride: stride of the 3x3 convolution.
    expansion: factor of the channels inside; None leaves the expansion out.
    activation: after the first two convolutions.
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
  """Stem of stride 2, four stages of inverted residuals, and a wide head.

  Attributes:
    factor: of all widths; that of the head, 1280, is never made smaller.
    groups: of each stage, groups of blocks: channels, number of blocks and
      stride of the first.
    multiple: widths are rounded to the nearest multiple of it, and not by more
      than a tenth down.
    expand_first: whether the first block has its expansion, by 1.
    activation: ReLU6 in the paper.
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
  """The same for images of 32 pixels."""

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
