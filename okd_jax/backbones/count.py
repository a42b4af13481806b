"""Parameters, multiply-adds and activations, without compiling anything."""

from collections.abc import Callable
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp


def count_parameters(params: Any) -> int:
  """Number of scalars in a tree of arrays or of their shapes."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def count_multiply_adds(net: nn.Module, input_shape: tuple[int, ...]) -> int:
  """Multiply-adds of the convolutions and linear layers for one image.

  Counts in the traced program of the forward pass in evaluation mode, so it
  works for any linen module called as `net(x, train=False)`. Pooling,
  normalisation and activations are not counted.

  Args:
    net: the network, or one part of it.
    input_shape: shape of one image, or of one map for a tail: [H, W, c].

  Returns:
    The number of multiply-adds.
  """
  return multiply_adds_of(_traced(net, input_shape))


def multiply_adds_of(jaxpr: Any) -> int:
  """Multiply-adds of a traced program.

  Args:
    jaxpr: as `jax.make_jaxpr` gives it.
  """
  return _sum(jaxpr, _multiply_adds)


def count_activations(net: nn.Module, input_shape: tuple[int, ...]) -> int:
  """Outputs of the convolutions and linear layers for one image.

  What memory and time in training follow more closely than multiply-adds
  (Radosavovic et al., `Designing Network Design Spaces
  <https://arxiv.org/abs/2003.13678>`_, 2020). Counted as `count_multiply_adds`
  counts.

  Args:
    net: the network, or one part of it.
    input_shape: shape of one image, or of one map for a tail: [H, W, c].

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
  """Adds up what convolutions and products of matrices count."""
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name in ("conv_general_dilated", "dot_general"):
      total += count(eqn)
    elif eqn.primitive.name == "cond":
      total += max(_sum(branch, count) for branch in eqn.params["branches"])
    else:
      repeats = eqn.params["length"] if eqn.primitive.name == "scan" else 1
      for inner in jax.tree.leaves(
        list(eqn.params.values()), is_leaf=_has_equations
      ):
        total += repeats * _sum(inner, count) if _has_equations(inner) else 0
  return total


def _multiply_adds(eqn: Any) -> int:
  if eqn.primitive.name == "dot_general":
    return _count_dot(eqn)
  return _count_conv(eqn)


def _has_equations(value) -> bool:
  return hasattr(value, "eqns")


def _count_conv(eqn) -> int:
  # The kernel's input channels are those of one group already.
  kernel = eqn.invars[1].aval.shape
  channels = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
  per_output = math.prod(kernel) // channels
  per_output //= eqn.params["batch_group_count"]
  products = math.prod(eqn.outvars[0].aval.shape) * per_output
  # Of a dilated input, that of a gradient, most elements are zeros.
  return products // math.prod(eqn.params["lhs_dilation"])


def _count_dot(eqn) -> int:
  (contracted, _), _ = eqn.params["dimension_numbers"]
  lhs = eqn.invars[0].aval.shape
  return math.prod(eqn.outvars[0].aval.shape) * math.prod(
    lhs[axis] for axis in contracted
  )
