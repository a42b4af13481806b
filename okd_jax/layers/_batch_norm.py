"""Batch normalisation over the batch of all devices."""

import functools
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from okd_jax.layers._arrays import Array, at_least_float32, vary

# Weight of the old value in running statistics (0.1 in PyTorch's terms).
MOMENTUM = 0.9
EPSILON = 1e-5
# Mean squares of more variances than that are too large to subtract from.
_MOST_VARIANCES = 256


class BatchNorm(nn.Module):
  """Batch normalisation over all axes but the last.

  Differs from `nn.BatchNorm` in the running variance, which averages the
  unbiased batch variance, n / (n - 1) times the biased one that is used to
  normalise. n counts the positions of the whole batch, over all devices on
  `axis_name`.

  Attributes:
    axis_name: mesh axis that the batch is split over, inside `shard_map`.
      `okd_jax.groups.map_peers.across_devices` sets it; leave it None
      elsewhere.
    dtype: dtype of the result; None uses that of the input.
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
    x = vary(x, over=scale)
    y, mean, var = _normalise_by_batch(
      x,
      vary(scale, over=x, but=axis_name),
      vary(bias, over=x, but=axis_name),
      *(running_mean.value, axis_name, dtype),
    )
    if not self.is_initializing():
      unbiased = var * _bessel(_count(x, axis_name))
      for old, new in (running_mean, mean), (running_var, unbiased):
        old.value = MOMENTUM * old.value + (1 - MOMENTUM) * new
    return y


# This and the next are compiled as one program with all else, but traced and
# differentiated once a shape.
@functools.partial(jax.jit, static_argnums=5)
def _normalise(x, mean, var, scale, bias, dtype):
  factor = scale * lax.rsqrt(var + EPSILON)
  return ((at_least_float32(x) - mean) * factor + bias).astype(dtype)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _normalise_by_batch(x, scale, bias, about, axis_name, dtype):
  """Returns x normalised, and the mean and biased variance of the batch.

  The gradient is written by hand, because the derived one takes three more
  passes over arrays as large as x. With z the n normalised values before scale
  and bias, and r = 1 / sqrt(var + eps),

    dbias = sum dy, dscale = sum dy z = r (sum dy x - mean sum dy),
    dx = scale r (dy - dbias / n - z dscale / n).
  """

  def forward(x, scale, bias, about):
    mean, var = _batch_statistics(x, about, axis_name)
    y = _normalise(x, mean, var, scale, bias, dtype)
    return (y, mean, var), (x, scale, mean, var)

  def backward(saved, cotangents):
    x, scale, mean, var = saved
    dy, dmean, dvar = cotangents
    wide, dy = at_least_float32(x), at_least_float32(dy)
    dbias, moment = jnp.sum(dy, _axes(x)), jnp.sum(dy * wide, _axes(x))
    if axis_name is not None:
      dbias, moment = lax.psum(jnp.stack([dbias, moment]), axis_name)
    r, n = lax.rsqrt(var + EPSILON), _count(x, axis_name)
    dscale = r * (moment - mean * dbias)
    of_dy = scale * r
    of_x = (2 * dvar - of_dy * r * dscale) / n
    constant = (dmean - of_dy * dbias) / n
    dx = (of_dy * dy + of_x * (wide - mean) + constant).astype(x.dtype)
    return dx, dscale.astype(scale.dtype), dbias.astype(scale.dtype), None

  function = jax.custom_vjp(lambda *args: forward(*args)[0])
  function.defvjp(forward, backward)
  return function(x, scale, bias, about)


def _batch_statistics(x, about, axis_name):
  """Mean and biased variance of the batch of all devices."""
  x = at_least_float32(x)
  mean = jnp.mean(x, _axes(x))
  on_cpu = _variance_in_two if axis_name is None else _variance_in_one_pass
  var = lax.platform_dependent(
    *(x, mean, about), cpu=on_cpu, default=_variance_about
  )
  if axis_name is not None:
    mean, var = _over_devices(mean, var, about, axis_name)
  return mean, var


def _variance(x, mean):
  return jnp.mean(jnp.square(x - mean), _axes(x))


def _variance_about(x, mean, about):
  """The variance, from squared distances to a value near the mean.

  These squares depend on nothing else that is computed from x, so XLA can sum
  them while a convolution still has x on the chip.
  """
  about = about.astype(x.dtype)
  square = jnp.mean(jnp.square(x - about), _axes(x))
  return jnp.maximum(square - jnp.square(mean - about), 0)


def _variance_in_two(x, mean, about):
  del about
  return _variance(x, mean)


def _variance_in_one_pass(x, mean, about):
  """The variance: mean of squares minus squared mean, where that is safe.

  It is faster, as XLA on CPU would write the differences from the mean to
  memory before it sums their squares. But where the mean is far from zero, the
  subtraction would leave only noise.

  Only for the examples of one device: if XLA divides the sum among devices, one
  branch has a message between them. On CPU such messages meet those of other
  operations, and programs hang, crash or compute with wrong sums.
  """
  square = jnp.mean(jnp.square(x), _axes(x))
  var = square - jnp.square(mean)
  unsafe = jnp.any(square > _MOST_VARIANCES * var)
  return lax.cond(unsafe, _variance, lambda x, mean: var, x, mean)


def _over_devices(
  mean: Array, var: Array, about: Array, axis_name: str
) -> tuple[Array, Array]:
  """Statistics of all devices' values from those of each, in one message.

  The variance is the mean of the variances plus the variance of the means. The
  latter is computed about a value near the means, as squares of large means
  would cancel; on one device it is exactly zero.
  """
  mean, var, square = lax.pmean(
    jnp.stack([mean, var, jnp.square(mean - about)]), axis_name
  )
  return mean, var + jnp.maximum(square - jnp.square(mean - about), 0)


def _axes(x: Array) -> tuple[int, ...]:
  return tuple(range(x.ndim - 1))


def _count(x: Array, axis_name: str | None) -> int:
  """Number of values of a channel, over all devices."""
  devices = 1 if axis_name is None else lax.axis_size(axis_name)
  return x.size // x.shape[-1] * devices


def _bessel(count: int) -> float:
  """The ratio of the unbiased to the biased variance of some values."""
  return count / max(count - 1, 1)
