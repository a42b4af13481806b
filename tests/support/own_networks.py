"""Networks as a user writes them: plain linen, nothing of ours."""

from flax import linen as nn
import jax.numpy as jnp


class Small(nn.Module):
  """A convolution with flax's batch norm; returns logits and features."""

  num_classes: int
  width: int = 8

  @nn.compact
  def __call__(self, x, *, train):
    x = nn.Conv(self.width, (3, 3))(x)
    x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
    features = jnp.mean(x, (1, 2))
    return nn.Dense(self.num_classes)(features), features


class Wide(Small):
  """The same with more features."""

  width: int = 16


class Parted(nn.Module):
  """Can be split; returns logits alone."""

  num_classes: int
  part: str = "whole"

  @nn.compact
  def __call__(self, x, *, train):
    if self.part != "tail":
      x = nn.relu(nn.Conv(4, (3, 3), name="early")(x))
    if self.part == "trunk":
      return x
    x = nn.relu(nn.Conv(8, (3, 3), name="late")(x))
    return nn.Dense(self.num_classes, name="last")(jnp.mean(x, (1, 2)))
