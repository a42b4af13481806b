"""Square convolutions, in the formulations that are fastest on each device.

All give the result of `lax.conv_general_dilated`. TPUs use it directly; GPUs
do so too, except for several peers at once. Timings are in benchmarks/NOTES.md.
"""

import functools
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from okd_jax.layers import _together
from okd_jax.layers._arrays import Array, at_least_float32, vary
from okd_jax.layers._initializers import he_fan_out

# XLA has a faster library for convolutions with more channels on either side.
_NARROW = 16
# The gradient of the kernel is a sum over parts of the batch. At most so much
# of the output's gradient is in one, or it falls out of the caches.
_PART_BYTES = 2**19


def conv(
  features: int,
  size: int,
  stride: int = 1,
  *,
  groups: int = 1,
  dilation: int = 1,
  kernel_init: nn.initializers.Initializer = he_fan_out,
  use_bias: bool = False,
  bias_init: nn.initializers.Initializer = nn.initializers.zeros,
  dtype: Any = None,
  name: str,
) -> nn.Conv:
  """Square convolution that keeps the size at stride 1.

  Pads size // 2 (times the dilation) on every side at any stride, whereas
  "SAME" would pad only the right and bottom at stride 2.
  """
  return nn.Conv(
    features,
    (size, size),
    strides=stride,
    padding=size // 2 * dilation,
    kernel_dilation=dilation,
    feature_group_count=groups,
    use_bias=use_bias,
    kernel_init=kernel_init,
    bias_init=bias_init,
    dtype=dtype,
    conv_general_dilated=_convolve,
    name=name,
  )


def _convolve(x, kernel, strides, padding, **options):
  """`lax.conv_general_dilated` of images [B, H, W, c]."""
  # Initial values need one image, an exported program any number, symbolic.
  if x.shape[0] == 1 or not isinstance(x.shape[0], int):
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)
  return _convolve_once_a_shape(
    vary(x, over=kernel),
    vary(kernel, over=x),
    tuple(strides),
    tuple(map(tuple, padding)),
    tuple(sorted(options.items())),
  )


# Compiled as one program with all else; traced and differentiated once a shape.
@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _convolve_once_a_shape(x, kernel, strides, padding, options):
  def plain(x, kernel):
    return lax.conv_general_dilated(
      x, kernel, strides, padding, **dict(options)
    )

  def of_pairs(x, kernel, padding=padding):
    return _convolve_pairs(x, kernel, padding, **dict(options))

  y = jax.eval_shape(plain, x, kernel)
  sparse = _together.sparse(dict(options))
  narrow = strides == (1, 1) and kernel.shape[1] > 1
  narrow &= max(kernel.shape[2:]) <= _NARROW and not sparse
  usual = _together.convolution(plain, sparse)
  by_pairs = narrow and y.shape[2] % 2 == 0
  form = of_pairs if by_pairs else plain
  count = _number_of_parts(y)

  def kernel_gradient(x, dy, form):
    return jax.linear_transpose(lambda k: form(x, k), kernel)(dy)[0]

  def kernel_gradient_in_parts(x, dy):
    if count == 1:
      return kernel_gradient(x, dy, form)
    x, dy = _unfused(x, dy)
    parts = zip(jnp.split(x, count), jnp.split(dy, count), strict=True)
    total = sum(
      at_least_float32(kernel_gradient(*part, form)) for part in parts
    )
    return jnp.asarray(total, kernel.dtype)

  def input_gradient_of_pairs(kernel, dy):
    return of_pairs(dy, *_transposed(kernel, padding))

  def convolve(x, kernel):
    return _on_cpu(of_pairs if by_pairs else usual, usual, x, kernel)

  def backward(saved, dy):
    x, kernel = saved
    if sparse:
      # JAX cannot map this gradient over peers unless both arrays have them.
      x = x + 0 * dy.ravel()[0]
    pairs = narrow and x.shape[2] % 2 == 0
    to_input = _together.input_gradient(plain, sparse, x)
    to_kernel = _together.kernel_gradient(plain, sparse, kernel)
    by_pairs_to_input = input_gradient_of_pairs if pairs else to_input
    return (
      _on_cpu(by_pairs_to_input, to_input, kernel, dy),
      _on_cpu(kernel_gradient_in_parts, to_kernel, x, dy),
    )

  differentiable = jax.custom_vjp(convolve)
  differentiable.defvjp(lambda *args: (convolve(*args), args), backward)
  return differentiable(x, kernel)


def _on_cpu(fast, usual, *args):
  if fast is usual:
    return usual(*args)
  return lax.platform_dependent(*args, cpu=fast, default=usual)


def _transposed(kernel, padding):
  """Kernel and padding of the convolution that gives the input's gradient."""
  turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
  edges = [
    [size - 1 - edge for edge in both]
    for size, both in zip(kernel.shape, padding, strict=False)
  ]
  return turned, edges


def _convolve_pairs(x, kernel, padding, **options):
  """Convolves at stride 1 for two columns of the output at a time.

  A row of the result of stride 2, with twice the channels, is in memory a row
  of the output. The two kernels are the given kernel and a copy of it that is
  shifted one column to the right.
  """
  left, right = ([(0, 0), edge, (0, 0), (0, 0)] for edge in ((0, 1), (1, 0)))
  both = jnp.concatenate([jnp.pad(kernel, left), jnp.pad(kernel, right)], -1)
  y = lax.conv_general_dilated(x, both, (1, 2), padding, **options)
  return y.reshape(*y.shape[:2], 2 * y.shape[2], kernel.shape[-1])


def _number_of_parts(y: jax.ShapeDtypeStruct) -> int:
  """Number of parts, of at least eight examples, to split a batch into."""
  size = y.shape[0]
  possible = [n for n in (1, 2, 4, 8) if size % n == 0 and size >= 8 * n]
  small = [n for n in possible if y.size * y.dtype.itemsize <= n * _PART_BYTES]
  return min(small, default=max(possible, default=1))


def _unfused(*arrays: Array) -> tuple[Array, ...]:
  """Keeps XLA on CPU from recomputing arrays in the operations that read them.

  XLA would repeat the whole chain of residual additions in the transposition of
  every part. It removes an optimisation barrier before it fuses operations, but
  not a condition that it cannot decide.
  """
  first = arrays[0].ravel()[0]
  return lax.cond(
    first == first,
    lambda *arrays: arrays,
    lambda *arrays: tuple(jnp.full_like(x, jnp.nan) for x in arrays),
    *arrays,
  )
