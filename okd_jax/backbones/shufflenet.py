"""ShuffleNets for small images.

Zhang et al., `ShuffleNet <https://arxiv.org/abs/1707.01083>`_, 2018, with three
groups and width factor 1, and Ma et al., `ShuffleNet V2
<https://arxiv.org/abs/1807.11164>`_, 2018, with width factors 0.5 and 1. As in
papers on distillation, the stem has neither stride nor pooling.
"""

import functools

from flax import linen as nn
import jax.numpy as jnp

from okd_jax import layers
from okd_jax.backbones.network import Network
from okd_jax.backbones.parts import conv_bn as _conv_bn, torch_classifier
from okd_jax.core import Array

# PyTorch's default, as the published code sets no initialisation.
conv_bn = functools.partial(_conv_bn, kernel_init=layers.uniform_fan_in)


def shuffle(x: Array, groups: int) -> Array:
  """Reorders channels so that each group gets some of every group."""
  *shape, width = x.shape
  x = x.reshape(*shape, groups, width // groups)
  return x.swapaxes(-1, -2).reshape(*shape, width)


class BlockV1(nn.Module):
  """Residual block of grouped 1x1 convolutions with a shuffle between them.

  Attributes:
    width: number of output channels, including those of the shortcut.
    stride: 1 adds the shortcut; 2 halves height and width and concatenates it.
    groups: number of groups of the first and of the second 1x1 convolution.
    dtype: as in `Network`.
  """

  width: int
  stride: int
  groups: tuple[int, int]
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    conv = functools.partial(conv_bn, train=train, dtype=self.dtype)
    width = self.width - (x.shape[-1] if self.stride == 2 else 0)
    inner = width // 4
    first, second = self.groups
    y = nn.relu(conv(x, inner, 1, 1, groups=first, name="conv1"))
    y = shuffle(y, first)
    y = conv(y, inner, 3, self.stride, groups=inner, name="conv2")
    y = conv(nn.relu(y), width, 1, 1, groups=second, name="conv3")
    if self.stride == 1:
      return nn.relu(x + y)
    x = nn.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    return nn.relu(jnp.concatenate([y, x.astype(y.dtype)], -1))


class BlockV2(nn.Module):
  """Convolves half of the channels and passes the other half on unchanged."""

  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    conv = functools.partial(conv_bn, train=train, dtype=self.dtype)
    kept, y = jnp.split(x, 2, -1)
    width = y.shape[-1]
    y = nn.relu(conv(y, width, 1, 1, name="conv1"))
    y = conv(y, width, 3, 1, groups=width, name="conv2")
    y = nn.relu(conv(y, width, 1, 1, name="conv3"))
    return shuffle(jnp.concatenate([kept.astype(y.dtype), y], -1), 2)


class DownBlockV2(nn.Module):
  """Halves height and width on two paths, each with half of the output."""

  width: int
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    conv = functools.partial(conv_bn, train=train, dtype=self.dtype)
    half, given = self.width // 2, x.shape[-1]
    left = conv(x, given, 3, 2, groups=given, name="conv1")
    left = nn.relu(conv(left, half, 1, 1, name="conv2"))
    right = nn.relu(conv(x, half, 1, 1, name="conv3"))
    right = conv(right, half, 3, 2, groups=half, name="conv4")
    right = nn.relu(conv(right, half, 1, 1, name="conv5"))
    return shuffle(jnp.concatenate([left, right], -1), 2)


class _ShuffleNet(Network, kw_only=True):
  """Base of both versions: a stem of 24 channels and a linear classifier.

  Attributes:
    widths: output channels of each stage.
    blocks: number of blocks of each stage, including the one that halves height
      and width.
    stem_size: kernel size of the stem's convolution.
  """

  widths: tuple[int, ...]
  blocks: tuple[int, ...] = (4, 8, 4)
  stem_size: int
  split: int = 2

  @property
  def num_stages(self) -> int:
    return len(self.widths)

  def stem(self, x: Array, train: bool) -> Array:
    x = conv_bn(
      x, 24, self.stem_size, 1, train=train, dtype=self.dtype, name="stem"
    )
    return nn.relu(x)

  def head(self, x: Array, train: bool) -> tuple[Array, Array, Array]:
    del train
    features = jnp.mean(x, (1, 2))
    logits = torch_classifier(features, self.num_classes, dtype=self.dtype)
    return x, features, logits


class ShuffleNetV1(_ShuffleNet, kw_only=True):
  """ShuffleNet.

  Attributes:
    groups: number of groups of the 1x1 convolutions, except for the very first
      one, which is not grouped.
  """

  groups: int

  def stage(self, number: int, x: Array, train: bool) -> Array:
    for i in range(self.blocks[number - 1]):
      first = 1 if number == 1 and i == 0 else self.groups
      x = BlockV1(
        self.widths[number - 1],
        2 if i == 0 else 1,
        (first, self.groups),
        dtype=self.dtype,
        name=f"stage{number}_block{i}",
      )(x, train)
    return x


class ShuffleNetV2(_ShuffleNet, kw_only=True):
  """ShuffleNet V2, with a 1x1 convolution to 1024 channels in its head."""

  def stage(self, number: int, x: Array, train: bool) -> Array:
    x = DownBlockV2(
      self.widths[number - 1], dtype=self.dtype, name=f"stage{number}_block0"
    )(x, train)
    for i in range(1, self.blocks[number - 1]):
      x = BlockV2(dtype=self.dtype, name=f"stage{number}_block{i}")(x, train)
    return x

  def head(self, x: Array, train: bool) -> tuple[Array, Array, Array]:
    x = conv_bn(x, 1024, 1, 1, train=train, dtype=self.dtype, name="head_conv")
    return super().head(nn.relu(x), train)


shufflenet_v1 = functools.partial(
  ShuffleNetV1, widths=(240, 480, 960), groups=3, stem_size=1
)
shufflenet_v2_05 = functools.partial(
  ShuffleNetV2, widths=(48, 96, 192), stem_size=3
)
shufflenet_v2_10 = functools.partial(
  ShuffleNetV2, widths=(116, 232, 464), stem_size=3
)
