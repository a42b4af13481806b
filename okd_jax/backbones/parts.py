"""Layers that several families share."""

from flax import linen as nn

from okd_jax import layers
from okd_jax.core import Array


def conv_bn(x, features, size, stride, *, train, dtype, name, **conv) -> Array:
  """Convolution, named `name`, and batch norm, named `name`_bn."""
  x = layers.conv(features, size, stride, dtype=dtype, name=name, **conv)(x)
  bn = layers.BatchNorm(dtype=dtype, name=f"{name}_bn")
  return bn(x, use_running_average=not train)


def bn_relu(x, *, train, dtype, name) -> Array:
  """Batch norm and ReLU."""
  bn = layers.BatchNorm(dtype=dtype, name=name)
  return nn.relu(bn(x, use_running_average=not train))


def torch_conv(x, features, size, *, dtype, name, **conv) -> Array:
  """Convolution with a bias and PyTorch's default initialisation."""
  fan_in = size * size * x.shape[-1] // conv.get("groups", 1)
  return layers.conv(
    features,
    size,
    kernel_init=layers.uniform_fan_in,
    use_bias=True,
    bias_init=layers.uniform_bias(fan_in),
    dtype=dtype,
    name=name,
    **conv,
  )(x)


def classifier(
  features: Array,
  num_classes: int,
  *,
  kernel_init: nn.initializers.Initializer = layers.uniform_fan_in,
  bias_init: nn.initializers.Initializer = nn.initializers.zeros,
  dtype,
) -> Array:
  """Logits [B, C] by a linear layer, named "head_linear"."""
  return nn.Dense(
    num_classes,
    kernel_init=kernel_init,
    bias_init=bias_init,
    dtype=dtype,
    name="head_linear",
  )(features)


def torch_classifier(features: Array, num_classes: int, *, dtype) -> Array:
  """`classifier` with PyTorch's default initialisation, also of the bias."""
  bias_init = layers.uniform_bias(features.shape[-1])
  return classifier(features, num_classes, bias_init=bias_init, dtype=dtype)
