"""The forward pass of one network inside `shard_map`, and its new state.

A network may keep any state. State that varies over the parts of the batch is
averaged over the data axis, which is correct for running means of values per
example, as all parts are equally large. Batch normalisation knows its axis and
is exact by itself. `okd_jax.groups.check` refuses state for which neither is
correct.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from flax import errors, linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from okd_jax import layers, trees
from okd_jax.core import Array, Outputs, Variables
from okd_jax.devices.mesh import DATA, PEER
from okd_jax.groups.errors import check_alike, check_outputs, GroupError
from okd_jax.groups.map_peers import across_devices

Pass = Callable[[Variables, Any, Array], tuple[Any, Variables]]


def apply_network(net: nn.Module, train: bool) -> Pass:
  """Returns fn(variables, images, key) -> (result, state)."""

  def fn(variables, images, key):
    if not train:
      return _apply(net, variables, images, train=False), {}
    mutable = [name for name in variables if name != "params"]
    with across_devices(DATA):
      result, state = _apply(
        net,
        variables,
        images,
        train=True,
        mutable=mutable,
        rngs={"dropout": key},
      )
    return result, _one_value(net, dict(state))

  return fn


def _apply(net: nn.Module, *args: Any, **kwargs: Any) -> Any:
  try:
    return net.apply(*args, **kwargs)
  except errors.InvalidRngError as error:
    raise GroupError(
      f"{type(net).__name__} draws random numbers that it is not given: "
      f"{error} Draw them from 'dropout', and only if `train`."
    ) from error
  except errors.ScopeParamShapeError as error:
    raise GroupError(
      f"{type(net).__name__} was made for images of another shape than "
      f"{jnp.shape(args[1])}: {error} Give it images like those it was made "
      "with (Task.image_shape)."
    ) from error
  except TypeError as error:
    # In `shard_map`, JAX tells what is equal on all devices from what is not.
    if "manual axis types" not in str(error):
      raise
    raise GroupError(
      f"{type(net).__name__} has a loop or a condition with a constant in the "
      "place of values that depend on the images, such as jnp.zeros(...) where "
      "a loop begins; make it with jnp.zeros_like or jnp.full_like of what the "
      "network has computed from the images (nn.RNN takes initial_carry=...)."
    ) from error


def with_outputs(fn: Pass) -> Pass:
  """The same function, with `Outputs` as the result."""

  def wrapped(variables, images, key):
    result, state = fn(variables, images, key)
    return as_outputs(result), state

  return wrapped


def as_outputs(result: Any) -> Outputs:
  """Accepts the result of a user's network: logits, and perhaps features.

  Raises:
    GroupError: if it is something else.
  """
  if isinstance(result, Outputs):
    outputs = result
  elif isinstance(result, tuple) and len(result) == 2:
    outputs = Outputs(logits=result[0], features=result[1])
  else:
    outputs = Outputs(logits=result, features=result)
  check_outputs(result, outputs)
  return dataclasses.replace(
    outputs,
    logits=layers.at_least_float32(outputs.logits),
    features=jax.tree.map(layers.at_least_float32, outputs.features),
  )


def peer_keys(key: Array, count: int) -> Array:
  """One key for each peer on this device, by its index in the whole stack."""
  first = lax.axis_index(PEER) * count
  return jax.vmap(lambda i: jax.random.fold_in(key, first + i))(
    jnp.arange(count)
  )


def over_peers(state: Variables) -> Variables:
  """Combines state, equal on all devices of the peer axis, into one value."""

  def combine(value):
    if PEER not in _varying(value):
      return value
    if jnp.issubdtype(value.dtype, jnp.inexact):
      return lax.pmean(value, PEER)
    return lax.pmax(value.astype(jnp.int32), PEER).astype(value.dtype)

  return jax.tree.map(combine, state)


def join_outputs(results: list[Outputs]) -> Outputs:
  """Joins outputs of different networks; those of unlike shape form a tuple.

  Stages are aligned at the deepest one; stages that some networks lack are left
  out, unless the networks set `all_maps`.

  Raises:
    GroupError: if the logits differ in shape.
  """
  if len(results) == 1:
    return results[0]
  check_alike(results)
  choose = max if results[0].all_maps else min
  depth = choose(len(result.maps) for result in results)

  def of_stage(result, stage):
    place = stage - depth + len(result.maps)
    return result.maps[place] if place >= 0 else (None,) * len(result.logits)

  return Outputs(
    logits=jnp.concatenate([result.logits for result in results]),
    features=tuple(f for result in results for f in result.features),
    maps=tuple(
      tuple(m for result in results for m in of_stage(result, stage))
      for stage in range(depth)
    ),
    num_shared=results[0].num_shared,
    all_maps=results[0].all_maps,
  )


def _one_value(net: nn.Module, state: Variables) -> Variables:
  return jax.tree_util.tree_map_with_path(
    functools.partial(_mean_over_data, type(net).__name__), state
  )


def _mean_over_data(network: str, path: Any, value: Array) -> Array:
  if DATA not in _varying(value):
    return value
  if jnp.issubdtype(value.dtype, jnp.inexact):
    return lax.pmean(value, DATA)
  name = trees.name(path)
  raise GroupError(
    f"{network} keeps '{name}' of dtype {value.dtype}, which depends "
    "on the examples; such state is averaged over the devices' parts of the "
    "batch, so it must be floating; keep a float, or count steps, which are "
    "equal everywhere."
  )


def _varying(value: Array) -> frozenset[str]:
  return jax.typeof(value).manual_axis_type.varying
