"""Counts parameters, multiply-adds and activations without compiling."""

from collections.abc import Callable
import math
from typing import Any

from flax import linen as nn
import jax
from jax.extend.core import jaxprs_in_params
import jax.numpy as jnp


def count_parameters(params: Any) -> int:
  """Number of scalars in a tree of arrays or `jax.ShapeDtypeStruct`."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def count_multiply_adds(net: nn.Module, input_shape: tuple[int, ...]) -> int:
  """Multiply-adds of the convolutions and linear layers for one image.

  They are counted in the traced program of the forward pass in evaluation mode,
  so this works for any linen module called as `net(x, train=False)`. Pooling,
  normalisation and activation functions are not counted.

  Args:
    net: the network, or one part of it.
    input_shape: shape [H, W, c] of one image; for a tail, shape of the map that
      enters it.

  Returns:
    The number of multiply-adds.
  """
  return multiply_adds_of(_traced(net, input_shape))


def multiply_adds_of(jaxpr: Any) -> int:
  """Multiply-adds of a traced program.

  Of a `cond`, the most expensive branch counts. The body of a `while` loop
  counts once, as the number of its repetitions is unknown.

  Args:
    jaxpr: result of `jax.make_jaxpr`.
  """
  return _sum(jaxpr, _multiply_adds)


def count_activations(net: nn.Module, input_shape: tuple[int, ...]) -> int:
  """Size of the outputs of convolutions and linear layers for one image.

  Memory and time of training depend on this number more closely than on
  multiply-adds (Radosavovic et al., `Designing Network Design Spaces
  <https://arxiv.org/abs/2003.13678>`_, 2020). It is counted in the same program
  as by `count_multiply_adds`.

  Args:
    net: the network, or one part of it.
    input_shape: as for `count_multiply_adds`.

  Returns:
    The number of scalars.
  """
  return _sum(
    _traced(net, input_shape), lambda eqn: math.prod(eqn.outvars[0].aval.shape)
  )


def _traced(net: nn.Module, input_shape: tuple[int, ...]) -> Any:
  x = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)

  def forward(x):
    key = jax.random.key(0)
    return net.init_with_output({"params": key}, x, train=False)[0]

  return jax.make_jaxpr(forward)(x)


def _sum(jaxpr: Any, count: Callable[[Any], int]) -> int:
  """Sums `count` over the convolutions and matrix products of a program."""
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name in ("conv_general_dilated", "dot_general"):
      total += count(eqn)
    elif eqn.primitive.name == "cond":
      total += max(_sum(branch, count) for branch in eqn.params["branches"])
    else:
      repeats = eqn.params["length"] if eqn.primitive.name == "scan" else 1
      inside = jaxprs_in_params(eqn.params)
      total += repeats * sum(_sum(inner, count) for inner in inside)
  return total


def _multiply_adds(eqn: Any) -> int:
  if eqn.primitive.name == "dot_general":
    return _count_dot(eqn)
  return _count_conv(eqn)


def _count_conv(eqn) -> int:
  # The kernel's shape has the input channels of one group only.
  kernel = eqn.invars[1].aval.shape
  channels = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
  per_output = math.prod(kernel) // channels
  per_output //= eqn.params["batch_group_count"]
  products = math.prod(eqn.outvars[0].aval.shape) * per_output
  # Gradients have a dilated input, whose elements are mostly zeros.
  return products // math.prod(eqn.params["lhs_dilation"])


def _count_dot(eqn) -> int:
  (contracted, _), _ = eqn.params["dimension_numbers"]
  lhs = eqn.invars[0].aval.shape
  return math.prod(eqn.outvars[0].aval.shape) * math.prod(
    lhs[axis] for axis in contracted
  )
