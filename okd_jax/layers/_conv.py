"""Square convolutions, in the formulations that are fastest on each device.

The formulas are those of `lax.conv_general_dilated`, which TPUs get as it is,
and graphics cards but for several peers at once; figures are in
benchmarks/NOTES.md.
"""

import functools
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from okd_jax.layers._arrays import Array, at_least_float32, vary
from okd_jax.layers._initializers import he_fan_out

# XLA has a faster library for convolutions with more channels on either side.
_NARROW = 16
# The gradient of the kernel is a sum over parts of the batch. At most so much
# of the output's gradient is in one, or it falls out of the caches.
_PART_BYTES = 2**19
# Platforms of graphics cards. On them convolutions of peers become one with as
# many channels as all of them have, if those are not more than this on either
# side.
_CARDS = ("cuda", "rocm")
_TOGETHER = 256


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

  Pads size // 2 (times the dilation) on every side at any stride, where "SAME"
  would pad the right and bottom alone at stride 2.
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

  def of_peers(x, kernel):
    return _convolve_peers(plain, x, kernel, _sparse(dict(options)))

  def of_pairs(x, kernel, padding=padding):
    return _convolve_pairs(x, kernel, padding, **dict(options))

  y = jax.eval_shape(plain, x, kernel)
  narrow = strides == (1, 1) and kernel.shape[1] > 1
  narrow &= max(kernel.shape[2:]) <= _NARROW and not _sparse(dict(options))
  usual = _for_peers(plain, of_peers)
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

  def input_gradient(kernel, dy):
    return jax.linear_transpose(lambda x: plain(x, kernel), x)(dy)[0]

  def input_gradient_of_pairs(kernel, dy):
    return of_pairs(dy, *_transposed(kernel, padding))

  def input_gradients_of_peers(x, kernel, dy):
    like = vary(jnp.zeros((len(dy), *x.shape), x.dtype), over=dy)
    return jax.linear_transpose(lambda x: of_peers(x, kernel), like)(dy)[0]

  def kernel_gradients_of_peers(kernel, x, dy):
    like = vary(jnp.zeros((len(dy), *kernel.shape), kernel.dtype), over=dy)
    return jax.linear_transpose(lambda k: of_peers(x, k), like)(dy)[0]

  def convolve(x, kernel):
    return _on_cpu(of_pairs if by_pairs else usual, usual, x, kernel)

  def backward(saved, dy):
    x, kernel = saved
    if _sparse(dict(options)):
      # JAX cannot map this gradient over peers unless both arrays have them.
      x = x + 0 * dy.ravel()[0]
    pairs = narrow and x.shape[2] % 2 == 0
    to_input = _for_peers(
      input_gradient, functools.partial(input_gradients_of_peers, x)
    )
    to_kernel = _for_peers(
      lambda x, dy: kernel_gradient(x, dy, plain),
      functools.partial(kernel_gradients_of_peers, kernel),
    )
    return (
      _on_cpu(
        input_gradient_of_pairs if pairs else to_input,
        to_input,
        *(kernel, dy),
      ),
      _on_cpu(kernel_gradient_in_parts, to_kernel, *(x, dy)),
    )

  differentiable = jax.custom_vjp(convolve)
  differentiable.defvjp(lambda *args: (convolve(*args), args), backward)
  return differentiable(x, kernel)


def convolve_together(x, kernel, strides, padding, **options):
  """`lax.conv_general_dilated` of one peer, to be mapped over all of them.

  For networks that know nothing of peers: graphics cards get the convolutions
  of all peers in the form that is fast there. Not to be differentiated before
  it is mapped.
  """

  def plain(x, kernel):
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)

  if kernel.ndim != 4:
    return plain(x, kernel)
  return _for_peers(
    plain, lambda *both: _convolve_peers(plain, *both, _sparse(options))
  )(x, kernel)


def _on_cpu(fast, usual, *args):
  if fast is usual:
    return usual(*args)
  return lax.platform_dependent(*args, cpu=fast, default=usual)


def _for_peers(one, peers):
  """A function of one peer that `jax.vmap` replaces on graphics cards.

  Args:
    one: function of two arrays.
    peers: the same of all peers, which both arrays have as leading axis.
  """
  either = jax.custom_batching.custom_vmap(one)

  @either.def_vmap
  def rule(size, mapped, *args):
    del size
    axes = [0 if each else None for each in mapped]
    usual = jax.vmap(one, axes)
    if not all(mapped):
      return usual(*args), True
    cards = dict.fromkeys(_CARDS, peers)
    return lax.platform_dependent(*args, default=usual, **cards), True

  return either


def _convolve_peers(plain, x, kernel, sparse):
  """Convolves the images [P, B, H, W, c] of peers with kernels of their own.

  Libraries of graphics cards are slow at convolutions in groups and at those of
  few channels. Few channels become one convolution whose kernel has those of
  the peers on its diagonal and is zero elsewhere; others follow each other.
  """
  num_peers, rows, columns, c, d = kernel.shape
  if sparse:
    return jax.vmap(plain)(x, kernel)
  if num_peers * max(c, d) > _TOGETHER:
    return jnp.stack([plain(*each) for each in zip(x, kernel, strict=True)])
  diagonal = jnp.eye(num_peers, dtype=kernel.dtype)[
    :, None, None, None, :, None
  ]
  together = kernel[:, :, :, :, None] * diagonal
  together = together.transpose(1, 2, 0, 3, 4, 5)
  y = plain(
    jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], num_peers * c),
    together.reshape(rows, columns, num_peers * c, num_peers * d),
  )
  return jnp.moveaxis(y.reshape(*y.shape[:-1], num_peers, d), -2, 0)


def _transposed(kernel, padding):
  """Kernel and padding of the convolution that gives the input's gradient."""
  turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
  edges = [
    [size - 1 - edge for edge in both]
    for size, both in zip(kernel.shape, padding, strict=False)
  ]
  return turned, edges


def _sparse(options) -> bool:
  """Whether a kernel is dilated or sees a group of the channels only."""
  dilated = max(options.get("rhs_dilation") or (1,)) > 1
  return dilated or options.get("feature_group_count", 1) > 1


def _convolve_pairs(x, kernel, padding, **options):
  """Convolves at stride 1 for two columns of the output at a time.

  One row of the result of stride 2, twice as wide in channels, is a row of the
  output as it lies in memory. The two kernels are the kernel and itself one
  column to the right.
  """
  left, right = ([(0, 0), edge, (0, 0), (0, 0)] for edge in ((0, 1), (1, 0)))
  both = jnp.concatenate([jnp.pad(kernel, left), jnp.pad(kernel, right)], -1)
  y = lax.conv_general_dilated(x, both, (1, 2), padding, **options)
  return y.reshape(*y.shape[:2], 2 * y.shape[2], kernel.shape[-1])


def _number_of_parts(y: jax.ShapeDtypeStruct) -> int:
  """How many parts, of eight examples at least, to split a batch into."""
  size = y.shape[0]
  possible = [n for n in (1, 2, 4, 8) if size % n == 0 and size >= 8 * n]
  small = [n for n in possible if y.size * y.dtype.itemsize <= n * _PART_BYTES]
  return min(small, default=max(possible, default=1))


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
