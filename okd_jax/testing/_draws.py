"""Checks of the random numbers that a method draws."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.extend.core import jaxprs_in_params

from okd_jax import core
from okd_jax.testing import _outputs
from okd_jax.testing._checks import require, variables_of


def random_numbers_change(method: core.Method) -> None:
  """No random numbers of a step are the same whatever its arguments are."""
  variables = variables_of(method)
  memory = [name for name in variables if name != "params"]

  def step(variables, outputs, batch, ctx):
    return method.apply(variables, outputs, batch, ctx, mutable=memory)

  traced = jax.make_jaxpr(step)(
    variables,
    _outputs.random_outputs(method),
    _outputs.random_batch(method),
    _outputs.context(method),
  )
  require(
    not _draws_the_same(traced.jaxpr, [False] * len(traced.jaxpr.invars)),
    method,
    "draws random numbers from a constant key, which are the same at every "
    "step; draw them by ctx.key, or keep what is not to change in variables",
  )


def _draws_the_same(jaxpr: Any, fixed: Sequence[bool]) -> bool:
  """Whether a program draws random numbers from nothing but constants.

  Args:
    jaxpr: the program.
    fixed: whether its arguments are constants, or made of them alone.
  """
  constants = set(jaxpr.constvars)
  constants |= {
    v for v, is_fixed in zip(jaxpr.invars, fixed, strict=True) if is_fixed
  }
  for eqn in jaxpr.eqns:
    given = [_is_literal(v) or v in constants for v in eqn.invars]
    if eqn.primitive.name == "random_bits" and all(given):
      return True
    for inner in jaxprs_in_params(eqn.params):
      # Arguments of loops become something else; those of calls do not.
      is_call = eqn.primitive.name in ("jit", "pjit")
      passed = given if is_call else [all(given)] * len(inner.invars)
      if _draws_the_same(inner, passed):
        return True
    if all(given):
      constants.update(eqn.outvars)
  return False


def _is_literal(value: Any) -> bool:
  return hasattr(value, "val")
