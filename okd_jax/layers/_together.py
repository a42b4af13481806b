"""Convolutions that `jax.vmap` maps over peers in a way that is fast on GPUs.

The libraries of GPUs are slow at grouped convolutions and at those of few
channels. Peers with few channels are computed by one common convolution, whose
kernel has theirs on its diagonal and is zero elsewhere; peers with many
channels one after another. Timings are in benchmarks/NOTES.md.

Each function takes `plain`, the convolution of images [B, H, W, c] with a
kernel [h, w, c, d], and whether it is `sparse`, that is, dilated or grouped;
such a convolution is mapped as it is.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from okd_jax.layers._arrays import Array, vary

_CARDS = ("cuda", "rocm")
# At most so many channels of all peers are together on either side.
_TOGETHER = 256

_Form = Callable[[Array, Array], Array]


def convolve_together(
  x: Array, kernel: Array, strides: Any, padding: Any, **options: Any
) -> Array:
  """`lax.conv_general_dilated` of one peer, to be mapped over all of them.

  For networks that do not know of peers. It cannot be differentiated before it
  is mapped.
  """

  def plain(x, kernel):
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)

  # Otherwise gradients would be summed over devices inside the choice of a
  # platform, which XLA does not order among its other messages.
  x, kernel = vary(x, over=kernel), vary(kernel, over=x)
  if kernel.ndim != 4:
    return plain(x, kernel)
  return convolution(plain, sparse(options))(x, kernel)


def sparse(options: dict[str, Any]) -> bool:
  """Whether a kernel is dilated or sees only a group of the channels."""
  dilated = max(options.get("rhs_dilation") or (1,)) > 1
  return dilated or options.get("feature_group_count", 1) > 1


def convolution(plain: _Form, sparse: bool) -> _Form:
  """The convolution itself."""
  return _mapped(plain, _of_peers(plain, sparse))


def input_gradient(plain: _Form, sparse: bool, x: Array) -> _Form:
  """Input's gradient, from kernel and output's gradient; `x` has its shape."""
  return _gradient(plain, sparse, x, lambda form, k: lambda x: form(x, k))


def kernel_gradient(plain: _Form, sparse: bool, kernel: Array) -> _Form:
  """Kernel's gradient, from input and output's gradient, shaped as `kernel`."""
  return _gradient(plain, sparse, kernel, lambda form, x: lambda k: form(x, k))


def _gradient(plain: _Form, sparse: bool, wanted: Array, linear: Any) -> _Form:
  """The gradient by the argument of the function `linear(form, other)`."""

  def one(other, dy):
    return jax.linear_transpose(linear(plain, other), wanted)(dy)[0]

  def peers(other, dy):
    form = linear(_of_peers(plain, sparse), other)
    like = jnp.zeros((len(dy), *wanted.shape), wanted.dtype)
    return jax.linear_transpose(form, vary(like, over=dy))(dy)[0]

  return _mapped(one, peers)


def _mapped(one: _Form, peers: _Form) -> _Form:
  """A function of one peer that `jax.vmap` replaces on graphics cards.

  Args:
    one: function of two arrays, for one peer.
    peers: the same function for all peers, the leading axis of both arrays.
  """
  either: Any = jax.custom_batching.custom_vmap(one)

  @either.def_vmap
  def rule(size, mapped, *args):
    del size
    usual = jax.vmap(one, [0 if each else None for each in mapped])
    if not all(mapped):
      return usual(*args), True
    cards = dict.fromkeys(_CARDS, peers)
    return lax.platform_dependent(*args, default=usual, **cards), True

  return either


def _of_peers(plain: _Form, sparse: bool) -> _Form:
  """Convolves images [P, B, H, W, c] with kernels [P, h, w, c, d]."""
  if sparse:
    return jax.vmap(plain)

  def convolve(x, kernel):
    num_peers, rows, columns, c, d = kernel.shape
    if num_peers * max(c, d) > _TOGETHER:
      return jnp.stack([plain(*each) for each in zip(x, kernel, strict=True)])
    diagonal = jnp.eye(num_peers, dtype=kernel.dtype)
    together = kernel[:, :, :, :, None] * diagonal[:, None, None, None, :, None]
    together = together.transpose(1, 2, 0, 3, 4, 5)
    y = plain(
      jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], num_peers * c),
      together.reshape(rows, columns, num_peers * c, num_peers * d),
    )
    return jnp.moveaxis(y.reshape(*y.shape[:-1], num_peers, d), -2, 0)

  return convolve
