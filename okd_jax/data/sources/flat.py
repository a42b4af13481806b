"""Many pictures in the memory of a device."""

import math
from typing import Any

from flax import struct
import jax.numpy as jnp

from okd_jax.core import Array


@struct.dataclass
class Flat:
  """Pictures as rows of bytes.

  As [N, H, W, c] a TPU would hold them with neighbouring pictures side by side:
  to take some, its program copies all, padded to rows of 128 pixels.

  Attributes:
    rows: uint8 [N, H * W * c].
    shape: (H, W, c).
  """

  rows: Array
  shape: tuple[int, ...] = struct.field(pytree_node=False)

  @classmethod
  def of(cls, images: Any) -> "Flat":
    """Of uint8 [N, H, W, c], without a copy where they follow each other."""
    shape = images.shape[1:]
    return cls(images.reshape(len(images), math.prod(shape)), shape)

  def take(self, index: Array) -> Array:
    """Pictures [B, H, W, c] by their numbers, int32 [B]."""
    taken = jnp.take(self.rows, index, axis=0)
    return taken.reshape(len(index), *self.shape)
