"""Fusing the maps of several networks."""

from collections.abc import Sequence
import itertools

from flax import linen as nn
import jax.numpy as jnp
import numpy as np

from okd_jax import layers
from okd_jax.core import Array


class Fusion(nn.Module):
  """Fuses the last maps of several networks and classifies the result.

  Kim et al., "Feature Fusion for Online Mutual Knowledge Distillation", ICPR
  2020: a depthwise and a pointwise convolution, each with batch norm and ReLU,
  then the mean over positions and a linear classifier. If maps differ in size,
  the larger ones are averaged down to the smallest size.

  Attributes:
    num_classes: number C of classes.
  """

  num_classes: int

  @nn.compact
  def __call__(
    self, maps: Sequence[Array], *, train: bool
  ) -> tuple[Array, Array]:
    """Returns the fused map [B, H, W, D] and logits [B, C].

    Args:
      maps: the map [B, H_k, W_k, D_k] of every network; D is that of the first.
      train: whether batch norm uses the statistics of the batch.
    """
    width = maps[0].shape[-1]
    size = tuple(min(m.shape[axis] for m in maps) for axis in (1, 2))
    joined = [_shrink(layers.at_least_float32(m), size) for m in maps]
    fused = conv_norm_relu(jnp.concatenate(joined, -1), None, train, "depth")
    fused = conv_norm_relu(fused, width, train, "point")
    pooled = jnp.mean(fused, (1, 2))
    return fused, layers.linear(pooled, self.num_classes, name="head")


class Depthwise(nn.Module):
  """A depthwise 3x3 convolution; the shape [B, H, W, D] stays the same.

  It is a sum of shifted products, because XLA's partitioner gets the kernel's
  gradient of a grouped convolution wrong if both examples and channels are
  spread over devices, as they are in the joined maps of peers.
  """

  @nn.compact
  def __call__(self, x: Array) -> Array:
    _, height, width, channels = x.shape
    kernel = self.param("kernel", layers.he_fan_out, (3, 3, 1, channels))
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    total = jnp.zeros_like(x)
    for i, j in itertools.product(range(3), range(3)):
      total += kernel[i, j, 0] * padded[:, i : i + height, j : j + width]
    return total


def conv_norm_relu(
  x: Array, features: int | None, train: bool, name: str
) -> Array:
  """A pointwise convolution to `features`, or a depthwise one if that is None.

  Call it in a compact method; it maps [B, H, W, D] to [B, H, W, features].
  """
  if features is None:
    x = Depthwise(name=f"{name}_conv")(x)
  else:
    x = layers.conv(features, 1, name=f"{name}_conv")(x)
  norm = layers.BatchNorm(name=f"{name}_norm")
  return nn.relu(norm(x, use_running_average=not train))


def _shrink(x: Array, size: tuple[int, ...]) -> Array:
  """Means over equal parts of a map's area; a position may lie in several."""
  for axis, count in zip((1, 2), size, strict=True):
    if x.shape[axis] != count:
      shares = jnp.asarray(_shares(x.shape[axis], count), x.dtype)
      parts = jnp.tensordot(shares, x, (1, axis), precision="highest")
      x = jnp.moveaxis(parts, 0, axis)
  return x


def _shares(length: int, count: int) -> np.ndarray:
  """[count, length]: the share that each position has in each part."""
  ends = np.linspace(0, length, count + 1)[:, None]
  begins = np.arange(length)
  common = np.minimum(ends[1:], begins + 1) - np.maximum(ends[:-1], begins)
  return np.maximum(common, 0) * count / length
