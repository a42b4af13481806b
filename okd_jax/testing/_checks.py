"""Checks of a method with random outputs, without training."""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from okd_jax import core
from okd_jax.testing import _outputs
from okd_jax.testing._outputs import B, P, random_outputs

# A summary is drawn as a curve an element.
_MOST_CURVES = P * P


def terms_are_named_and_shaped(method: core.Method) -> None:
  """Terms are float32 [Q, B] or [B], predictions [B, C], summaries small."""
  shape = random_outputs(method).logits.shape[1:]
  result: Any = jax.eval_shape(
    functools.partial(apply, method, {}), random_outputs(method)
  )
  require(
    isinstance(result, core.MethodOutput) and isinstance(result.terms, dict),
    method,
    "returned no core.MethodOutput of a dict; return "
    'core.MethodOutput({"name": loss})',
  )
  require(result.terms, method, "returned no term; return one loss at least")
  for name, value in result.terms.items():
    require(
      re.fullmatch(r"[a-z][a-z0-9_]*", name),
      method,
      f"names a term '{name}'; use lower case and underscores, as records do",
    )
    require(
      value.dtype == jnp.float32,
      method,
      f"returned term '{name}' as {value.dtype}; compute losses in float32",
    )
    require(
      value.shape == (B,) or (value.ndim == 2 and value.shape[1] == B),
      method,
      f"returned term '{name}' of shape {value.shape}; return [Q, B] with a "
      f"row a peer, or [B], here B = {B}, and leave the mean to the step",
    )
    require(
      value.ndim == 1 or value.shape[0] <= P,
      method,
      f"returned term '{name}' with {value.shape[0]} rows for {P} peers; "
      "return at most a row a peer",
    )
  for name, value in result.predictions.items():
    require(
      value.shape == shape,
      method,
      f"returned prediction '{name}' of shape {value.shape}; return logits "
      f"[B, C], or what else the task has, here {shape}",
    )
  if result.paused is not None:
    require(
      (result.paused.shape, result.paused.dtype) == ((P,), jnp.bool_),
      method,
      f"returned 'paused' as {result.paused.dtype} {result.paused.shape}; "
      f"return bool [P], a value a peer, here P = {P}",
    )
  for name, value in result.summaries.items():
    require(
      value.size <= _MOST_CURVES,
      method,
      f"returned summary '{name}' with {value.size} values; average it, since "
      "every value becomes a curve",
    )


def depends_on_arguments_alone(method: core.Method) -> None:
  """A method that is traced and compiled twice returns the same."""
  first, second = (
    jax.jit(
      lambda seen, batch: apply(method, {}, seen, batch),
      compiler_options=_outputs.QUICK,
    )(random_outputs(method), _outputs.random_batch(method))
    for _ in range(2)
  )
  _require_close(
    second,
    first,
    1e-4,
    method,
    "returns something else when it is traced again; keep no state outside "
    "variables, and draw random numbers by ctx.key",
  )


def soft_labels_are_taken(method: core.Method) -> None:
  """Labels as probabilities that are 0 or 1 give what integers give."""
  if _outputs.of_maps(method):
    return
  with jax.enable_x64(True):
    seen = random_outputs(method, dtype=jnp.float64)
    wide = jax.tree.map(_widen, variables_of(method))
    jitted = jax.jit(
      lambda batch: apply(method, {}, seen, batch, wide),
      compiler_options=_outputs.QUICK,
    )
    hard = jitted(_outputs.random_batch(method, False, jnp.float64))
    try:
      soft = jitted(_outputs.random_batch(method, True, jnp.float64))
    except (TypeError, ValueError) as error:
      raise AssertionError(
        f"{name_of(method)} takes labels [B] alone: {error}. Take also one-hot "
        "labels [B, C], as okd_jax.losses do."
      ) from error
  _require_close(
    soft.terms,
    hard.terms,
    1e-10,
    method,
    "gives other losses for one-hot labels [B, C] than for integers [B]; use "
    "okd_jax.losses, which take both",
  )


def too_few_peers_are_refused(method: core.Method) -> None:
  """A group that is too small causes a clear message, not an index error."""
  if method.min_peers == 1:
    return
  try:
    jax.eval_shape(
      functools.partial(apply, method, {}), random_outputs(method, num_peers=1)
    )
  except Exception as error:  # whatever it is, it stands in the message
    require(
      "got 1 peer" in str(error) and "num_peers" in str(error),
      method,
      f"refuses one peer by '{error}'; call core.require_peers first",
    )
  else:
    require(
      False,
      method,
      f"has min_peers={method.min_peers} and takes one peer; call "
      "core.require_peers first",
    )


def missing_trunk_or_maps_are_refused(method: core.Method) -> None:
  """If a group lacks a trunk or maps, the message names what is missing."""
  bare = dataclasses.replace(random_outputs(method, trunk=False), maps=())
  try:
    jax.eval_shape(functools.partial(apply, method, {}), bare)
  except Exception as error:  # whatever it is, it stands in the message
    require(
      "reads the" in str(error),
      method,
      f"says '{error}' of a group without maps and trunk; call "
      "core.require_maps or core.require_trunk first",
    )


def evaluation_reads_no_target(method: core.Method) -> None:
  """Predictions depend only on the outputs of the group itself.

  In evaluation the outputs of averages and teachers are NaN, the indices are
  those of another split than the memory per example has, and targets are what
  predictions are compared with. Only there predictions are measured.
  """
  variables = variables_of(method)
  hidden = dict(variables)
  for name in method.needs.per_example:
    hidden[name] = jax.tree.map(_not_a_number, variables[name])
  seen = random_outputs(method)
  blind = dataclasses.replace(
    seen,
    ema=jax.tree.map(_not_a_number, seen.ema),
    teacher=jax.tree.map(_not_a_number, seen.teacher),
  )

  def predictions(variables, outputs, batch):
    result: Any = method.apply(
      variables, outputs, batch, _outputs.context(method, False)
    )
    return result.predictions

  jitted = jax.jit(predictions, compiler_options=_outputs.QUICK)
  batch = _outputs.random_batch(method)
  expected = jitted(variables, seen, batch)
  trained: Any = jax.eval_shape(functools.partial(apply, method, {}), seen)
  for name in trained.predictions:
    require(
      name in expected,
      method,
      f"predicts '{name}' in training alone; return it if not ctx.train, too, "
      "as predictions are measured in evaluation",
    )
  _require_close(
    jitted(hidden, blind, batch),
    expected,
    0,
    method,
    "needs averages, a teacher or memory per example for its predictions, and "
    "evaluation has none",
  )
  target = jax.tree.map(lambda leaf: jnp.roll(leaf, 1, 0), batch.target)
  _require_close(
    jitted(variables, seen, dataclasses.replace(batch, target=target)),
    expected,
    0,
    method,
    "predicts something else for other targets, so its figures would be of "
    "what it was told; compute predictions from the outputs alone",
  )


def apply(
  method: core.Method,
  params: Any,
  seen: core.Outputs,
  batch: core.Batch | None = None,
  variables: Any = None,
) -> core.MethodOutput:
  """The method's output for its initial memory and the given parameters."""
  start = variables_of(method) if variables is None else variables
  start = start | ({"params": params} if params else {})
  memory = [name for name in start if name != "params"]
  batch = _outputs.random_batch(method) if batch is None else batch
  result: Any = method.apply(
    start, seen, batch, _outputs.context(method), mutable=memory
  )
  output: core.MethodOutput = result[0]
  return output


@functools.cache
def variables_of(method: core.Method) -> Any:
  """The variables of a method for random outputs, drawn once."""
  with jax.ensure_compile_time_eval():  # may be called while tracing
    # As arguments: what is known would be computed operation by operation.
    init = jax.jit(
      lambda key, seen, batch: method.init(
        key, seen, batch, _outputs.context(method)
      ),
      compiler_options=_outputs.QUICK,
    )
    seen, batch = random_outputs(method), _outputs.random_batch(method)
    return jax.device_get(init(jax.random.key(0), seen, batch))


def _not_a_number(leaf: Any) -> Any:
  if not jnp.issubdtype(leaf.dtype, jnp.floating):
    return leaf
  return jnp.full(leaf.shape, jnp.nan, leaf.dtype)


def _widen(leaf: Any) -> Any:
  wide = jnp.issubdtype(leaf.dtype, jnp.floating)
  return np.asarray(leaf, np.float64) if wide else leaf


def _require_close(
  actual: Any, desired: Any, rtol: float, method: core.Method, problem: str
) -> None:
  for a, b in zip(
    jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True
  ):
    close = np.allclose(a, b, rtol=rtol, atol=rtol, equal_nan=False)
    require(close, method, problem)


def name_of(method: core.Method) -> str:
  """The module and class of the method, for messages."""
  return f"{type(method).__module__}.{type(method).__name__}"


def require(holds: Any, method: core.Method, problem: str) -> None:
  if not holds:
    raise AssertionError(f"{name_of(method)} {problem}.")
