"""Initial values."""

from flax import linen as nn
import jax
import jax.numpy as jnp

# U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for linear layers.
uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

# N(0, 2 / (k * k * channels)); "normal" is not truncated here.
he_fan_out = nn.initializers.variance_scaling(2, "fan_out", "normal")
he_fan_in = nn.initializers.variance_scaling(2, "fan_in", "normal")


def uniform_bias(fan_in: int) -> nn.initializers.Initializer:
  """Initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)) of a linear layer's bias."""
  bound = fan_in**-0.5

  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init
