"""Vision transformers.

Dosovitskiy et al., `An Image is Worth 16x16 Words
<https://arxiv.org/abs/2010.11929>`_, 2021, in the sizes Ti and S of Touvron et
al., `Training data-efficient image transformers
<https://arxiv.org/abs/2012.12877>`_, 2021. As in Beyer et al., `Better plain
ViT baselines <https://arxiv.org/abs/2205.01580>`_, 2022, there is no class
token, and the features are the mean over positions; so a stage returns a map as
in other networks. `vit_*_p16` are for images of 224x224, `vit_tiny` and
`vit_small` for 32x32. `deit_tiny` and `deit_small` have the class token of the
first two papers; they are timm's `vit_*_patch16_224` and `deit_*_patch16_224`.
"""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from okd_jax.backbones.network import Network
from okd_jax.backbones.parts import classifier
from okd_jax.core import Array
from okd_jax.errors import ConfigError

_small = nn.initializers.truncated_normal(0.02)


class Block(nn.Module):
  """Self-attention and an MLP, each with a residual connection.

  The hidden layer of the MLP is four times as wide as its input.

  Attributes:
    heads: number of attention heads; it must divide the width.
    dtype: as in `Network`.
  """

  heads: int
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    batch, count, width = x.shape
    y = self._norm(x, "norm1")
    qkv = self._dense(y, 3 * width, "dense1_qkv")
    parts = qkv.reshape(batch, count, 3, self.heads, width // self.heads)
    y = jax.nn.dot_product_attention(*jnp.moveaxis(parts, 2, 0))
    x += self._dense(y.reshape(batch, count, width), width, "dense2_proj")
    y = self._dense(self._norm(x, "norm2"), 4 * width, "dense3_hidden")
    return x + self._dense(nn.gelu(y, approximate=False), width, "dense4_out")

  def _norm(self, x: Array, name: str) -> Array:
    return nn.LayerNorm(1e-6, dtype=self.dtype, name=name)(x)

  def _dense(self, x: Array, width: int, name: str) -> Array:
    return nn.Dense(width, kernel_init=_small, dtype=self.dtype, name=name)(x)


class ViT(Network, kw_only=True):
  """Patches with learned position embeddings, and four stages of equal blocks.

  The number of position embeddings follows from the image size at
  initialisation; images of another size do not fit.

  Attributes:
    width: number D of channels.
    heads: number of attention heads.
    patch: height and width of a patch; they must divide those of the image.
    depth: number of blocks, spread over the stages: with 12, three in each.
  """

  width: int
  heads: int
  patch: int
  depth: int = 12
  split: int = 2

  @property
  def num_stages(self) -> int:
    return 4

  def stem(self, x: Array, train: bool) -> Array:
    x = self._patches(x)
    places = self.param("stem_places", _small, (1, *x.shape[1:]))
    return x + places.astype(x.dtype)

  def stage(self, number: int, x: Array, train: bool) -> Array:
    batch, height, width, channels = x.shape
    x = self._blocks(number, x.reshape(batch, height * width, channels))
    return x.reshape(batch, height, width, channels)

  def head(self, x: Array, train: bool) -> tuple[Array, Array, Array]:
    x = self._head_norm(x)
    features = jnp.mean(x, (1, 2))
    return x, features, self._classifier(features)

  def _patches(self, x: Array) -> Array:
    size = x.shape[1:3]
    if any(side % self.patch for side in size):
      raise ConfigError(
        f"an input of height and width {size} cannot be cut into patches of "
        f"{self.patch}x{self.patch}; use multiples of {self.patch}."
      )
    return nn.Conv(
      self.width,
      (self.patch, self.patch),
      (self.patch, self.patch),
      "VALID",
      kernel_init=_small,
      dtype=self.dtype,
      name="stem_patches",
    )(x)

  def _blocks(self, number: int, x: Array) -> Array:
    first, last = ((self.depth * n) // 4 for n in (number - 1, number))
    for i in range(last - first):
      name = f"stage{number}_block{i}"
      x = Block(self.heads, dtype=self.dtype, name=name)(x)
    return x

  def _head_norm(self, x: Array) -> Array:
    return nn.LayerNorm(1e-6, dtype=self.dtype, name="head_norm")(x)

  def _classifier(self, features: Array) -> Array:
    return classifier(
      features, self.num_classes, kernel_init=_small, dtype=self.dtype
    )


class LargeViT(ViT, kw_only=True):
  """ViT for images of 224x224."""

  image_shape = (224, 224, 3)


class DeiT(LargeViT, kw_only=True):
  """ViT with a class token, whose last vector is the features.

  A trunk must return one map, so stages store the token as an additional first
  row of the map, repeated in each column. The maps of `Outputs` do not contain
  this row. But methods see a trunk as the mean over all positions of its map;
  there the token counts as one row.
  """

  def stem(self, x: Array, train: bool) -> Array:
    x = self._patches(x)
    batch, height, width, channels = x.shape
    token = self.param("stem_class", _small, (1, 1, channels))
    shape = (1, 1 + height * width, channels)
    places = self.param("stem_places", _small, shape).astype(x.dtype)
    token = jnp.broadcast_to(token.astype(x.dtype), (batch, 1, channels))
    x = jnp.concatenate((token, x.reshape(batch, -1, channels)), 1) + places
    return _as_map(x, width)

  def stage(self, number: int, x: Array, train: bool) -> Array:
    batch, _, width, channels = x.shape
    places = self.positions(x).reshape(batch, -1, channels)
    x = jnp.concatenate((x[:, 0, :1], places), 1)
    return _as_map(self._blocks(number, x), width)

  def positions(self, x: Array) -> Array:
    return x[:, 1:]

  def head(self, x: Array, train: bool) -> tuple[Array, Array, Array]:
    x = self._head_norm(x)
    features = x[:, 0, 0]
    return self.positions(x), features, self._classifier(features)


def _as_map(x: Array, width: int) -> Array:
  """Reshapes token and positions [B, 1 + H * W, D] to [B, 1 + H, W, D]."""
  batch, count, channels = x.shape
  row = jnp.broadcast_to(x[:, None, :1], (batch, 1, width, channels))
  places = x[:, 1:].reshape(batch, (count - 1) // width, width, channels)
  return jnp.concatenate((row, places), 1)


vit_tiny = functools.partial(ViT, width=192, heads=3, patch=4)
vit_small = functools.partial(ViT, width=384, heads=6, patch=4)
vit_tiny_p16 = functools.partial(LargeViT, width=192, heads=3, patch=16)
vit_small_p16 = functools.partial(LargeViT, width=384, heads=6, patch=16)
deit_tiny = functools.partial(DeiT, width=192, heads=3, patch=16)
deit_small = functools.partial(DeiT, width=384, heads=6, patch=16)
