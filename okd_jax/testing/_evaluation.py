"""Checks of what a method predicts in evaluation."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from okd_jax import core
from okd_jax.testing import _checks, _outputs


def evaluation_reads_no_target(method: core.Method) -> None:
  """Predictions depend only on the outputs of the group itself.

  In evaluation the outputs of averages and teachers are NaN, the indices are
  those of another split than the memory per example has, and targets are what
  predictions are compared with. Only there predictions are measured.
  """
  variables = _checks.variables_of(method)
  hidden = dict(variables)
  for name in method.needs.per_example:
    hidden[name] = jax.tree.map(_not_a_number, variables[name])
  seen = _outputs.random_outputs(method)
  blind = dataclasses.replace(
    seen,
    ema=jax.tree.map(_not_a_number, seen.ema),
    teacher=jax.tree.map(_not_a_number, seen.teacher),
  )

  jitted = _predictions(method)
  batch = _outputs.random_batch(method)
  expected = jitted(variables, seen, batch)
  trained: Any = jax.eval_shape(
    functools.partial(_checks.apply, method, {}), seen
  )
  for name in trained.predictions:
    _checks.require(
      name in expected,
      method,
      f"predicts '{name}' in training alone; return it if not ctx.train, too, "
      "as predictions are measured in evaluation",
    )
  _checks.require_close(
    jitted(hidden, blind, batch),
    expected,
    0,
    method,
    "needs averages, a teacher or memory per example for its predictions, and "
    "evaluation has none",
  )
  other = _outputs.other_batch(batch)
  _checks.require_close(
    jitted(variables, seen, dataclasses.replace(batch, target=other.target)),
    expected,
    0,
    method,
    "predicts something else for other targets, so its figures would be of "
    "what it was told; compute predictions from the outputs alone",
  )
  _checks.require_close(
    jitted(variables, seen, dataclasses.replace(other, target=batch.target)),
    expected,
    0,
    method,
    "predicts something else for other images, indices or masks; compute "
    "predictions from the outputs alone",
  )


def predictions_are_of_single_examples(method: core.Method) -> None:
  """Predictions of an example depend on no other, and on no step or key."""
  variables = _checks.variables_of(method)
  seen, batch = _outputs.random_outputs(method), _outputs.random_batch(method)
  jitted = _predictions(method)
  expected = jitted(variables, seen, batch)
  later = _outputs.context(method, False, later=True)
  _checks.require_close(
    jitted(variables, seen, batch, later),
    expected,
    0,
    method,
    "predicts something else at another step or with another key, and "
    "evaluation knows of neither; compute predictions from the outputs alone",
  )
  few = _outputs.B // 2
  _checks.require_close(
    jitted(
      variables,
      _outputs.first(seen, few),
      jax.tree.map(lambda leaf: leaf[:few], batch),
    ),
    jax.tree.map(lambda leaf: leaf[:few], expected),
    1e-4,
    method,
    "predicts something else for an example where fewer are beside it; let "
    "predictions of an example depend on no other",
  )


@functools.cache
def _predictions(method: core.Method) -> Any:
  """The compiled predictions: fn(variables, outputs, batch, ctx=...)."""
  now = _outputs.context(method, False)

  def predictions(variables, outputs, batch, ctx=now):
    result: Any = method.apply(variables, outputs, batch, ctx)
    return result.predictions

  return jax.jit(predictions, compiler_options=_outputs.QUICK)


def _not_a_number(leaf: Any) -> Any:
  if not jnp.issubdtype(leaf.dtype, jnp.floating):
    return leaf
  return jnp.full(leaf.shape, jnp.nan, leaf.dtype)
