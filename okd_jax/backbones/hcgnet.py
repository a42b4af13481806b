"""Gated networks with hybrid connectivity for small images.

Yang et al., `Gated Convolutional Networks with Hybrid Connectivity for Image
Classification <https://arxiv.org/abs/1908.09699>`_, 2020: HCGNet-A1.
"""

import functools

from flax import linen as nn
import jax.numpy as jnp

from okd_jax import layers
from okd_jax.backbones.network import Network
from okd_jax.backbones.parts import bn_relu, torch_classifier, torch_conv
from okd_jax.core import Array

# PyTorch's default, as the published code sets no initialisation.
_conv = functools.partial(layers.conv, kernel_init=layers.uniform_fan_in)


class Gate(nn.Module):
  """Forget gate and update gate of one map.

  Let pool(x) be the mean of x over positions, weighted by an attention over
  positions. The result is f x + a u + (1 - a) v. Here u and v are pooled from
  two depthwise 3x3 convolutions of x, one plain and one dilated by two; a is
  computed from u and v, and f from pool(x). u, v, a and f are vectors
  [B, 1, 1, D].

  Attributes:
    reduction: factor by which hidden layers are narrower: than u and v together
      for a, than pool(x) for f.
    dtype: as in `Network`.
  """

  reduction: int
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    width = x.shape[-1]
    conv = functools.partial(torch_conv, dtype=self.dtype)
    maps = [self._filtered(x, i, train) for i in (1, 2)]
    u, v = (
      _pool(y, conv(y, 1, 1, name=f"context{i}")) for i, y in enumerate(maps, 3)
    )
    both = jnp.concatenate([u, v], -1)
    both = conv(both, 2 * width // self.reduction, 1, name="squeeze5")
    both = jnp.tanh(self._bn("squeeze5_bn", both, train))
    scores = [conv(both, width, 1, name=f"expand{i}") for i in (6, 7)]
    a, b = nn.softmax(jnp.stack(scores), axis=0)
    kept = _pool(x, conv(x, 1, 1, name="forget8"))
    kept = conv(kept, width // self.reduction, 1, name="forget9")
    kept = jnp.tanh(self._bn("forget9_bn", kept, train))
    kept = nn.sigmoid(conv(kept, width, 1, name="forget10"))
    return x * kept + a * u + b * v

  def _filtered(self, x, dilation, train) -> Array:
    width = x.shape[-1]
    y = bn_relu(x, train=train, dtype=self.dtype, name=f"bn{dilation}")
    return _conv(
      width,
      3,
      groups=width,
      dilation=dilation,
      dtype=self.dtype,
      name=f"conv{dilation}",
    )(y)

  def _bn(self, name, x, train) -> Array:
    bn = layers.BatchNorm(dtype=self.dtype, name=name)
    return bn(x, use_running_average=not train)


def _pool(x, scores) -> Array:
  """Mean of x [B, H, W, D], weighted by the softmax of scores [B, H, W, 1]."""
  weights = nn.softmax(scores, axis=(1, 2))
  return jnp.sum(x * weights, (1, 2), keepdims=True)


class Layer(nn.Module):
  """Appends `growth` gated channels to its input, through a bottleneck."""

  growth: int
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    y = bn_relu(x, train=train, dtype=self.dtype, name="bn1")
    y = _conv(4 * self.growth, 1, dtype=self.dtype, name="conv1")(y)
    y = bn_relu(y, train=train, dtype=self.dtype, name="bn2")
    y = _conv(self.growth, 3, groups=4, dtype=self.dtype, name="conv2")(y)
    y = Gate(2, dtype=self.dtype, name="gate")(y, train)
    return jnp.concatenate([x.astype(y.dtype), y], axis=-1)


class Transition(nn.Module):
  """Halves height, width and, in two steps, channels; then applies a gate."""

  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    given = x.shape[-1]
    width = given // 2
    between = given - (given - width) // 2
    x = bn_relu(x, train=train, dtype=self.dtype, name="bn1")
    x = _conv(between, 1, dtype=self.dtype, name="conv1")(x)
    x = bn_relu(x, train=train, dtype=self.dtype, name="bn2")
    x = _conv(width, 3, 2, dtype=self.dtype, name="conv2")(x)
    return Gate(4, dtype=self.dtype, name="gate")(x, train)


class HCGNet(Network, kw_only=True):
  """Hybrid blocks with transitions between them.

  A transition belongs to the same stage as the block before it.

  Attributes:
    blocks: number of layers of each hybrid block.
    growths: for each block, number of channels that one of its layers adds. The
      stem has twice as many channels as the first of these numbers.
  """

  blocks: tuple[int, ...]
  growths: tuple[int, ...]
  split: int = 2

  @property
  def num_stages(self) -> int:
    return len(self.blocks)

  def stem(self, x: Array, train: bool) -> Array:
    del train
    return _conv(2 * self.growths[0], 3, dtype=self.dtype, name="stem")(x)

  def stage(self, number: int, x: Array, train: bool) -> Array:
    growth = self.growths[number - 1]
    for i in range(self.blocks[number - 1]):
      x = Layer(growth, dtype=self.dtype, name=f"stage{number}_layer{i}")(
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
    logits = torch_classifier(features, self.num_classes, dtype=self.dtype)
    return x, features, logits


hcgnet_a1 = functools.partial(HCGNet, blocks=(8, 8, 8), growths=(12, 24, 36))
