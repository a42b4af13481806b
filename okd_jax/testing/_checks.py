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
  require_close(
    second,
    first,
    1e-4,
    method,
    "returns something else when it is traced again; keep no state outside "
    "variables, and draw random numbers by ctx.key",
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
  # As in training, where nothing is of NumPy, whose arrays have no `at`.
  start = jax.tree.map(jnp.asarray, start)
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
    seen, batch = random_outputs(method), _outputs.random_batch(method)
    return jax.device_get(init(method)(seen, batch))


@functools.cache
def init(method: core.Method) -> Any:
  # As arguments: what is known would be computed operation by operation.
  return jax.jit(
    lambda seen, batch: method.init(
      jax.random.key(0), seen, batch, _outputs.context(method)
    ),
    compiler_options=_outputs.QUICK,
  )


def require_close(
  actual: Any, desired: Any, rtol: float, method: core.Method, problem: str
) -> None:
  structures = [jax.tree.structure(tree) for tree in (actual, desired)]
  require(structures[:1] == structures[1:], method, problem)
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
