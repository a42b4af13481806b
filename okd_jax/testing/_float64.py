"""Checks in float64, and whether a method computes in narrower floats."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from okd_jax import core
from okd_jax.groups import apart
from okd_jax.testing import _checks, _outputs

# What is allowed if a method casts to float32: sums in another order differ.
ROUNDED = 1e-5


def soft_labels_are_taken(method: core.Method) -> None:
  """Labels as probabilities that are 0 or 1 give what integers give."""
  if _outputs.of_maps(method):
    return
  with jax.enable_x64(True):
    seen = _outputs.random_outputs(method, dtype=jnp.float64)
    wide = jax.tree.map(_widen, _checks.variables_of(method))
    jitted = jax.jit(
      lambda batch: _checks.apply(method, {}, seen, batch, wide),
      compiler_options=_outputs.QUICK,
    )
    hard = jitted(_outputs.random_batch(method, False, jnp.float64))
    try:
      soft = jitted(_outputs.random_batch(method, True, jnp.float64))
    except (TypeError, ValueError) as error:
      raise AssertionError(
        f"{_checks.name_of(method)} takes labels [B] alone: {error}. Take also "
        "one-hot labels [B, C], as okd_jax.losses do."
      ) from error
  _checks.require_close(
    soft.terms,
    hard.terms,
    ROUNDED if rounds(method) else 1e-10,
    method,
    "gives other losses for one-hot labels [B, C] than for integers [B]; use "
    "okd_jax.losses, which take both",
  )


@functools.cache
def rounds(method: core.Method) -> bool:
  """Whether a method casts float64 to narrower floats."""
  with jax.enable_x64(True):
    seen = _outputs.random_outputs(method, dtype=jnp.float64)
    wide = jax.tree.map(_widen, _checks.variables_of(method))
    batch = _outputs.random_batch(method, False, jnp.float64)
    traced = jax.make_jaxpr(
      lambda seen, batch: _checks.apply(method, {}, seen, batch, wide)
    )(seen, batch)
  return any(
    equation.primitive.name == "convert_element_type"
    and equation.invars[0].aval.dtype == jnp.float64
    and jnp.issubdtype(equation.params["new_dtype"], jnp.floating)
    and equation.params["new_dtype"] != jnp.float64
    for equation in apart.equations(traced)
  )


def _widen(leaf: Any) -> Any:
  wide = jnp.issubdtype(leaf.dtype, jnp.floating)
  return np.asarray(leaf, np.float64) if wide else leaf
