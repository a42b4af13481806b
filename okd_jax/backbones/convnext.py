"""ConvNeXt for images of 224x224.

Liu et al., `A ConvNet for the 2020s <https://arxiv.org/abs/2201.03545>`_, 2022,
without stochastic depth.
"""

import functools

from flax import linen as nn
import jax.numpy as jnp

from okd_jax.backbones.network import Network
from okd_jax.backbones.parts import classifier
from okd_jax.core import Array

_small = nn.initializers.truncated_normal(0.02)


class Block(nn.Module):
  """Residual block: a 7x7 depthwise convolution and an MLP.

  The hidden layer of the MLP is four times as wide as its input. A learned gain
  for each channel multiplies the result before it is added to the input.
  """

  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    width = x.shape[-1]
    y = nn.Conv(
      width,
      (7, 7),
      feature_group_count=width,
      kernel_init=_small,
      dtype=self.dtype,
      name="conv0",
    )(x)
    y = nn.LayerNorm(1e-6, dtype=self.dtype, name="norm0")(y)
    for name, size in (("fc1", 4 * width), ("fc2", width)):
      y = nn.Dense(size, kernel_init=_small, dtype=self.dtype, name=name)(y)
      if name == "fc1":
        y = nn.gelu(y, approximate=False)
    gain = self.param("gain", nn.initializers.constant(1e-6), (width,))
    return x + y * gain.astype(y.dtype)


class ConvNeXt(Network, kw_only=True):
  """A stem that divides height and width by four, and stages of blocks.

  Attributes:
    blocks: number of blocks of each stage. Stages after the first halve height
      and width.
    widths: number of channels of each stage.
  """

  image_shape = (224, 224, 3)

  blocks: tuple[int, ...]
  widths: tuple[int, ...]
  split: int = 3

  @property
  def num_stages(self) -> int:
    return len(self.blocks)

  def stem(self, x: Array, train: bool) -> Array:
    x = self._shrink(x, self.widths[0], 4, "stem_conv")
    return self._norm(x, "stem_norm")

  def stage(self, number: int, x: Array, train: bool) -> Array:
    if number > 1:
      x = self._norm(x, f"stage{number}_a_norm")
      x = self._shrink(x, self.widths[number - 1], 2, f"stage{number}_a_shrink")
    for i in range(self.blocks[number - 1]):
      x = Block(dtype=self.dtype, name=f"stage{number}_block{i}")(x)
    return x

  def head(self, x: Array, train: bool) -> tuple[Array, Array, Array]:
    features = self._norm(jnp.mean(x, (1, 2)), "head_a_norm")
    logits = classifier(
      features, self.num_classes, kernel_init=_small, dtype=self.dtype
    )
    return x, features, logits

  def _norm(self, x: Array, name: str) -> Array:
    return nn.LayerNorm(1e-6, dtype=self.dtype, name=name)(x)

  def _shrink(self, x: Array, width: int, size: int, name: str) -> Array:
    return nn.Conv(
      width,
      (size, size),
      (size, size),
      "VALID",
      kernel_init=_small,
      dtype=self.dtype,
      name=name,
    )(x)


convnext_tiny = functools.partial(
  ConvNeXt, blocks=(3, 3, 9, 3), widths=(96, 192, 384, 768)
)
