"""Stacked hourglasses for heat maps of keypoints.

Newell et al., `Stacked Hourglass Networks for Human Pose Estimation
<https://arxiv.org/abs/1603.06937>`_, 2016, in the form that Li et al., `Online
Knowledge Distillation for Efficient Pose Estimation
<https://arxiv.org/abs/2108.02092>`_, 2021, use.
"""

import functools

import chex
from flax import linen as nn
import jax.numpy as jnp

from okd_jax import layers
from okd_jax.backbones.network import Network
from okd_jax.backbones.parts import bn_relu, torch_conv
from okd_jax.core import Array, Outputs
from okd_jax.errors import ConfigError


class Unit(nn.Module):
  """Residual bottleneck that normalises before each convolution.

  Attributes:
    width: number of output channels; the first two convolutions have half as
      many.
    dtype: as in `Network`.
  """

  width: int
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    conv = functools.partial(torch_conv, dtype=self.dtype)
    y = x
    inner = self.width // 2
    shapes = ((inner, 1), (inner, 3), (self.width, 1))
    for i, (width, size) in enumerate(shapes, 1):
      y = bn_relu(y, train=train, dtype=self.dtype, name=f"bn{i}")
      y = conv(y, width, size, name=f"conv{i}")
    if x.shape[-1] != self.width:
      x = conv(x, self.width, 1, name="proj")
    return x + y


class Stack(nn.Module):
  """One hourglass with its heat maps.

  Level 1 has the smallest map of the hourglass. The units of a level have the
  numbers that public PyTorch code gives them: 0 for the shortcut across, 1 for
  the way down, 2 for the way up, and, in level 1, 3 for the bottom.

  Attributes:
    joints: number J of joints.
    depth: number of times that height and width are halved.
    merge: whether another stack follows, which needs an input.
    dtype: as in `Network`.
  """

  joints: int
  depth: int
  merge: bool
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> tuple[Array, Array, Array]:
    """Returns the next stack's input, the last map, and the heat maps.

    Args:
      x: map [B, h, w, F].
      train: whether batch norm uses the statistics of the batch.

    Returns:
      The input of the next stack, [B, h, w, F], or `x` without `merge`; the map
      from which the heat maps are computed, [B, h, w, F]; the heat maps
      [B, h, w, J].
    """
    conv = functools.partial(torch_conv, dtype=self.dtype)
    width = x.shape[-1]
    y = self._hourglass(self.depth, x, train)
    y = self._unit("head1", y, train)
    y = conv(y, width, 1, name="head2")
    y = bn_relu(y, train=train, dtype=self.dtype, name="head2_bn")
    heat = conv(y, self.joints, 1, name="head3")
    if self.merge:
      x = (
        x + conv(y, width, 1, name="head4") + conv(heat, width, 1, name="head5")
      )
    return x, y, heat

  def _hourglass(self, level, x, train) -> Array:
    across = self._unit(f"level{level}_unit0", x, train)
    low = nn.max_pool(x, (2, 2), (2, 2))
    low = self._unit(f"level{level}_unit1", low, train)
    if level > 1:
      low = self._hourglass(level - 1, low, train)
    else:
      low = self._unit("level1_unit3", low, train)
    low = self._unit(f"level{level}_unit2", low, train)
    return across + jnp.repeat(jnp.repeat(low, 2, axis=1), 2, axis=2)

  def _unit(self, name, x, train) -> Array:
    return Unit(x.shape[-1], dtype=self.dtype, name=name)(x, train)


class Hourglass(Network, kw_only=True):
  """A stem that divides height and width by four, and stacks of hourglasses.

  A stage is a stack, and `num_classes` is the number J of joints. In `Outputs`,

  * the logits are the heat maps [B, h, w, J] of the last stack;
  * the maps are the stem's map [B, h, w, F], followed by the heat maps of all
    stacks in order, including those of the trunk;
  * the features [B, F] are the last stack's map before its heat maps, averaged
    over positions.

  A trunk returns one array. Along the axis of channels, it consists of the
  input of the next stack, the stem's map and the heat maps of the trunk's
  stacks; a tail takes the first maps of its outputs from it. Tails with
  different numbers of stacks fit on one trunk.

  Attributes:
    stacks: number of stacks.
    width: number F of channels, a multiple of 4.
    depth: number of times that an hourglass halves height and width.
  """

  image_shape = (256, 256, 3)

  stacks: int
  width: int = 256
  depth: int = 4

  @property
  def num_stages(self) -> int:
    return self.stacks

  def check(self) -> None:
    super().check()
    if self.split == self.stacks and self.part != "whole":
      raise ConfigError(
        f"split={self.split} leaves none of {self.stacks} stacks to the "
        f"branches; use 0 to {self.stacks - 1}."
      )
    if self.width < 4 or self.width % 4:
      raise ConfigError(f"width={self.width} must be a multiple of 4.")

  def stem(self, x: Array, train: bool) -> Array:
    width = self.width
    x = torch_conv(
      x, width // 4, 7, stride=2, dtype=self.dtype, name="stem_conv0"
    )
    x = bn_relu(x, train=train, dtype=self.dtype, name="stem_conv0_bn")
    x = Unit(width // 2, dtype=self.dtype, name="stem_unit1")(x, train)
    x = nn.max_pool(x, (2, 2), (2, 2))
    for i in (2, 3):
      x = Unit(width, dtype=self.dtype, name=f"stem_unit{i}")(x, train)
    return x

  @nn.compact
  def __call__(self, x: Array, *, train: bool) -> Outputs | Array:
    """Runs the stacks of this part.

    Args:
      x: images [B, H, W, c]; for a tail, the array that its trunk returned.
      train: whether batch norm uses the statistics of the batch.

    Returns:
      For a trunk an array [B, h, w, channels], otherwise `Outputs`; see the
      class for both.

    Raises:
      ConfigError: if `part`, `split` or `width` is not allowed, or if an
        hourglass cannot halve its input `depth` times.
    """
    self.check()
    chex.assert_rank(x, 4)
    if self.part == "tail":
      ends = [self.width, 2 * self.width]
      ends += [ends[-1] + i * self.num_classes for i in range(1, self.split)]
      x, root, *heats = jnp.split(x, ends if self.split else ends[:1], axis=-1)
    else:
      self._check_size(*x.shape[1:3])
      x = root = self.stem(x, train)
      heats = []
    first = self.split + 1 if self.part == "tail" else 1
    last = self.split if self.part == "trunk" else self.stacks
    y = x
    for number in range(first, last + 1):
      x, y, heat = Stack(
        self.num_classes,
        self.depth,
        merge=number < self.stacks,
        dtype=self.dtype,
        name=f"stack{number}",
      )(x, train)
      heats.append(heat)
    if self.part == "trunk":
      return jnp.concatenate([x, root, *heats], axis=-1)
    heats = [layers.at_least_float32(heat) for heat in heats]
    return Outputs(
      heats[-1],
      jnp.mean(y, (1, 2)),
      (root, *heats),
      num_shared=1 + self.split if self.part == "tail" else 0,
      all_maps=True,
    )

  def _check_size(self, height, width) -> None:
    least = 4 * 2**self.depth
    if height % least or width % least or not height or not width:
      raise ConfigError(
        f"an input of height and width {(height, width)} cannot be halved "
        f"{self.depth + 2} times; use multiples of {least} "
        "(config.data.image_size, config.data.keypoints.width)."
      )


hourglass1 = functools.partial(Hourglass, stacks=1, split=0)
hourglass2 = functools.partial(Hourglass, stacks=2, split=1)
hourglass4 = functools.partial(Hourglass, stacks=4, split=2)
hourglass6 = functools.partial(Hourglass, stacks=6, split=2)
hourglass8 = functools.partial(Hourglass, stacks=8, split=4)
# Small enough for a demonstration on CPU, with images of 64x64.
_Small = functools.partial(Hourglass, width=32, depth=3)
hourglass1_small = functools.partial(_Small, stacks=1, split=0)
hourglass2_small = functools.partial(_Small, stacks=2, split=1)
hourglass3_small = functools.partial(_Small, stacks=3, split=1)
