"""The base of networks that can be split into a trunk and a tail."""

from typing import Any, ClassVar

import chex
from flax import linen as nn
import jax.numpy as jnp

from okd_jax.core import Array, Outputs
from okd_jax.errors import ConfigError


class Network(nn.Module):
  """Abstract base of networks that can be split into a trunk and a tail.

  A network is a stem, a sequence of stages, numbered from 1, and a head. The
  stem and the first `split` stages form the trunk; the rest and the head form
  the tail. Variable names are the same in all parts, so the variables of the
  whole network are the union of those of trunk and tail.

  A family defines `num_stages`, `stage`, `head`, the default of `split`, and
  `stem` if it has one. These methods may create named submodules.

  Attributes:
    num_classes: number C of classes.
    split: number of stages in the trunk, from 0 to `num_stages`. With 0 the
      trunk is only the stem; a family without a stem needs at least 1.
    part: "whole" and "tail" return `Outputs` without the peer axis; "trunk"
      returns the map that enters the tail.
    dtype: dtype of the computation; None uses that of parameters and input.
      Batch statistics and the returned logits are at least float32.
    raw_maps: whether to return the last map as it leaves the last stage, even
      if the head normalises it before pooling.
  """

  # Shape [H, W, c] of the images that the family is designed for.
  image_shape: ClassVar[tuple[int, int, int]] = (32, 32, 3)

  num_classes: int
  split: int = 1
  part: str = "whole"
  dtype: Any = None
  raw_maps: bool = False

  @property
  def num_stages(self) -> int:
    """Number of stages."""
    raise NotImplementedError

  def stem(self, x: Array, train: bool) -> Array:
    """Returns the map [B, H, W, D] that enters the first stage."""
    del train
    return x

  def stage(self, number: int, x: Array, train: bool) -> Array:
    """Returns the map [B, H, W, D] of stage `number` from the previous map."""
    raise NotImplementedError

  def positions(self, x: Array) -> Array:
    """Returns the part [B, H, W, D] of a map that belongs to image positions.

    That is the whole map unless a family adds something to it, as a class
    token.
    """
    return x

  def head(self, x: Array, train: bool) -> tuple[Array, Array, Array]:
    """Returns the pooled map [B, H, W, D], features [B, D], logits [B, C]."""
    raise NotImplementedError

  def check(self) -> None:
    """Raises ConfigError if `part` or `split` is not allowed."""
    if self.part not in ("whole", "trunk", "tail"):
      raise ConfigError(
        f"part={self.part!r} is unknown; use 'whole', 'trunk' or 'tail'."
      )
    # A trunk without a layer would share nothing.
    fewest = 1 if type(self).stem is Network.stem else 0
    if self.split not in range(fewest, self.num_stages + 1):
      raise ConfigError(
        f"config.peers.split={self.split} is not a number of stages that "
        f"branches of this network can share; use {fewest} to "
        f"{self.num_stages}, or another config.peers.net."
      )

  @nn.compact
  def __call__(self, x: Array, *, train: bool) -> Outputs | Array:
    """Runs the stages of this part and, except for a trunk, the head.

    Args:
      x: images [B, H, W, c]; for a tail, the map that its trunk returned.
      train: whether batch norm uses the statistics of the batch, and dropout is
        active.

    Returns:
      For a trunk the map [B, H, W, D]; otherwise `Outputs` without the peer
      axis, with the maps of the stages that this part has run. The last map is
      the one that is pooled into the features, unless `raw_maps` is set.

    Raises:
      ConfigError: if `part` or `split` is not allowed, or if the image is too
        small.
    """
    self.check()
    chex.assert_rank(x, 4)
    first = self.split + 1 if self.part == "tail" else 1
    last = self.split if self.part == "trunk" else self.num_stages
    size = x.shape[1:3]
    maps = []
    if self.part != "tail":
      x = self.stem(x, train)
    for number in range(first, last + 1):
      x = self.stage(number, x, train)
      if 0 in x.shape[1:3]:
        raise ConfigError(
          f"an input of height and width {size} is too small for "
          f"{type(self).__name__}: nothing of it is left after stage {number}; "
          f"use larger images or a network that shrinks them less."
        )
      maps.append(self.positions(x))
    if self.part == "trunk":
      return x
    pooled, features, logits = self.head(x, train)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    last_map = self.positions(x) if self.raw_maps else pooled
    return Outputs(logits, features, (*maps[:-1], last_map))
