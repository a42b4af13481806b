"""The linear layer of methods."""

from flax import linen as nn

from okd_jax.layers._arrays import Array
from okd_jax.layers._initializers import uniform_bias, uniform_fan_in


def linear(x: Array, width: int, *, name: str) -> Array:
  """A linear layer with PyTorch's initial values, in full precision.

  Call it inside a compact method of a module.

  Args:
    x: float [..., D].
    width: width of the result, [..., width].
    name: name of its variables.
  """
  layer = nn.Dense(
    width,
    kernel_init=uniform_fan_in,
    bias_init=uniform_bias(x.shape[-1]),
    precision="highest",
    name=name,
  )
  y: Array = layer(x)
  return y
