"""Stores many pictures in the memory of a device."""

import math
from typing import Any

from flax import struct
import jax.numpy as jnp

from okd_jax.core import Array


@struct.dataclass
class Flat:
  """Pictures as rows of bytes.

  A TPU would store [N, H, W, c] with neighbouring pictures interleaved: to take
  some of them, its program copies all, padded to rows of 128 pixels.

  Attributes:
    rows: uint8 [N, H * W * c].
    shape: (H, W, c).
  """

  rows: Array
  shape: tuple[int, ...] = struct.field(pytree_node=False)

  @classmethod
  def of(cls, images: Any) -> "Flat":
    """Makes it from uint8 [N, H, W, c], if contiguous without a copy."""
    shape = images.shape[1:]
    return cls(images.reshape(len(images), math.prod(shape)), shape)

  def take(self, index: Array) -> Array:
    """Pictures [B, H, W, c] by their numbers, int32 [B]."""
    taken = jnp.take(self.rows, index, axis=0)
    return taken.reshape(len(index), *self.shape)
