"""Layers with the conventions of the published code (PyTorch)."""

import functools
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

Array = jax.Array

# Weight of the old value in running statistics (0.1 in PyTorch's terms).
MOMENTUM = 0.9
EPSILON = 1e-5

# U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for linear layers.
uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

# N(0, 2 / (k * k * channels)); "normal" is not truncated here.
he_fan_out = nn.initializers.variance_scaling(2, "fan_out", "normal")
he_fan_in = nn.initializers.variance_scaling(2, "fan_in", "normal")


def at_least_float32(x: Array) -> Array:
  """Casts 16-bit floats to float32 and leaves float32 and float64 alone."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def uniform_bias(fan_in: int) -> nn.initializers.Initializer:
  """Initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)) of a linear layer's bias."""
  bound = fan_in**-0.5

  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def conv(
  features: int,
  size: int,
  stride: int = 1,
  *,
  kernel_init: nn.initializers.Initializer = he_fan_out,
  use_bias: bool = False,
  dtype: Any = None,
  name: str,
) -> nn.Conv:
  """Square convolution that keeps the size at stride 1.

  Pads size // 2 on every side at any stride, where "SAME" would pad the right
  and bottom alone at stride 2.
  """
  return nn.Conv(
    features,
    (size, size),
    strides=stride,
    padding=size // 2,
    use_bias=use_bias,
    kernel_init=kernel_init,
    dtype=dtype,
    conv_general_dilated=_convolve,
    name=name,
  )


def _convolve(x, kernel, strides, padding, **options):
  """`lax.conv_general_dilated` with a faster gradient of the kernel on CPU.

  There XLA's own falls out of the caches; the sum over parts of the batch is up
  to three times as fast (benchmarks/NOTES.md).
  """
  # An exported program has any batch size, and no gradient.
  size = x.shape[0] if isinstance(x.shape[0], int) else 1
  count = next(
    n for n in (8, 4, 2, 1) if size % n == 0 and size >= 8 * n or n == 1
  )
  if count == 1:
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)
  # What varies over a mesh axis in one varies in the gradient of the other.
  x, kernel = _vary(x, over=kernel), _vary(kernel, over=x)
  window = tuple(strides), tuple(map(tuple, padding))
  return _convolve_in_parts(
    x, kernel, count, *window, tuple(sorted(options.items()))
  )


# Compiled as one program with all else; traced and differentiated once a shape.
@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _convolve_in_parts(x, kernel, count, strides, padding, options):
  def plain(x, kernel):
    return lax.conv_general_dilated(
      x, kernel, strides, padding, **dict(options)
    )

  def whole(x, dy):
    return jax.linear_transpose(lambda k: plain(x, k), kernel)(dy)[0]

  def in_parts(x, dy):
    x, dy = _unfused(x, dy)
    parts = zip(jnp.split(x, count), jnp.split(dy, count), strict=True)
    total = sum(at_least_float32(whole(*part)) for part in parts)
    return jnp.asarray(total, kernel.dtype)

  def backward(saved, dy):
    x, kernel = saved
    (dx,) = jax.linear_transpose(lambda x: plain(x, kernel), x)(dy)
    return dx, lax.platform_dependent(x, dy, cpu=in_parts, default=whole)

  convolve = jax.custom_vjp(plain)
  convolve.defvjp(lambda *saved: (plain(*saved), saved), backward)
  return convolve(x, kernel)


def _unfused(*arrays: Array) -> tuple[Array, ...]:
  """Keeps XLA on CPU from computing arrays again inside what reads them.

  It would repeat the whole chain of residual additions in the transposition of
  every part. An optimisation barrier is gone before it fuses; a condition that
  it cannot decide is not.
  """
  first = arrays[0].ravel()[0]
  return lax.cond(
    first == first,
    lambda *arrays: arrays,
    lambda *arrays: tuple(jnp.full_like(x, jnp.nan) for x in arrays),
    *arrays,
  )


def _vary(x: Array, over: Array) -> Array:
  """Marks `x` as varying over the mesh axes that `over` varies over."""
  have, wanted = (
    jax.typeof(value).manual_axis_type.varying for value in (x, over)
  )
  return lax.pcast(x, tuple(sorted(wanted - have)), to="varying")


class BatchNorm(nn.Module):
  """Batch normalisation over all axes but the last.

  Differs from `nn.BatchNorm` in the running variance, which takes the unbiased
  batch variance, n / (n - 1) times the biased one that normalises. n counts
  the positions of the whole batch over all devices on `axis_name`.

  Attributes:
    axis_name: mesh axis that the batch is split over, inside `shard_map`.
      `okd_jax.peers` sets it; leave it None elsewhere.
    dtype: dtype of the result; None is the input's.
  """

  axis_name: str | None = None
  dtype: Any = None

  @nn.compact
  def __call__(self, x: Array, *, use_running_average: bool) -> Array:
    width = x.shape[-1]
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, (width,))
    running_var = self.variable("batch_stats", "var", jnp.ones, (width,))
    scale = self.param("scale", nn.initializers.ones, (width,))
    bias = self.param("bias", nn.initializers.zeros, (width,))
    dtype = self.dtype or x.dtype
    if use_running_average:
      return _normalise(
        x, running_mean.value, running_var.value, scale, bias, dtype
      )
    axis_name = None if self.is_initializing() else self.axis_name
    mean, var = _batch_statistics(x, running_mean.value, axis_name)
    if not self.is_initializing():
      count = x.size // width
      if axis_name is not None:
        count *= lax.axis_size(axis_name)
      unbiased = var * (count / max(count - 1, 1))
      for old, new in (running_mean, mean), (running_var, unbiased):
        old.value = MOMENTUM * old.value + (1 - MOMENTUM) * new
    return _normalise(x, mean, var, scale, bias, dtype)


# Both are compiled as one program with all else, but traced and differentiated
# once a shape.
@functools.partial(jax.jit, static_argnums=5)
def _normalise(x, mean, var, scale, bias, dtype):
  factor = scale * lax.rsqrt(var + EPSILON)
  return ((at_least_float32(x) - mean) * factor + bias).astype(dtype)


@functools.partial(jax.jit, static_argnums=2)
def _batch_statistics(x, running_mean, axis_name):
  """Mean and biased variance of the whole batch."""
  x = at_least_float32(x)
  axes = tuple(range(x.ndim - 1))
  mean = jnp.mean(x, axes)
  # Two passes: the mean of squares less the squared mean can go negative.
  var = jnp.mean(jnp.square(x - mean), axes)
  if axis_name is not None:
    mean, var = _over_devices(mean, var, running_mean, axis_name)
  return mean, var


def _over_devices(
  mean: Array, var: Array, about: Array, axis_name: str
) -> tuple[Array, Array]:
  """Statistics of all devices' values from those of each, in one message.

  The variance is the mean of the variances and the variance of the means. The
  latter is taken about a value that is near them, or squares of large means
  would cancel; on one device it is exactly zero.
  """
  about = jax.lax.stop_gradient(about)
  mean, var, square = jax.lax.pmean(
    jnp.stack([mean, var, jnp.square(mean - about)]), axis_name
  )
  return mean, var + jnp.maximum(square - jnp.square(mean - about), 0)
