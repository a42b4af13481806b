"""One pass of a network of flax nnx, from arrays to arrays."""

from collections.abc import Mapping
import functools
import inspect
from typing import Any

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp

from okd_jax.backbones import _nnx_parts
from okd_jax.backbones._nnx_parts import Blueprint, Leaf
from okd_jax.core import Array
from okd_jax.devices.mesh import DATA
from okd_jax.errors import ConfigError

Values = dict[Leaf, Array]


def parameters(network: type[nnx.Module]) -> dict[str, inspect.Parameter]:
  """What the call of a network takes besides the images, by name."""
  found = list(inspect.signature(network.__call__).parameters.items())[2:]
  return {
    name: parameter
    for name, parameter in found
    if parameter.kind
    in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
  }


def _call_arguments(train: bool) -> dict[str, Any]:
  """Values of the arguments that a call may have, except `rngs`."""
  return {
    "train": train,
    "deterministic": not train,
    "use_running_average": not train,
  }


def check_call(network: type[nnx.Module]) -> None:
  """Raises ConfigError unless a network is called as we call it."""
  if not any("__call__" in vars(base) for base in network.__mro__):
    raise ConfigError(
      f"{network.__name__} is a network of flax nnx without __call__; define "
      "__call__(self, images), with the argument 'train' if you need it."
    )
  known = (*_call_arguments(train=False), "rngs")
  for name, parameter in parameters(network).items():
    if parameter.default is parameter.empty and name not in known:
      raise ConfigError(
        f"{network.__name__} is a network of flax nnx whose call asks for "
        f"'{name}'; it may take the images and any of {', '.join(known)}: give "
        "other arguments a default."
      )


def run(
  blueprint: Blueprint,
  values: Mapping[Leaf, Array],
  images: Array,
  *,
  train: bool = False,
  key: Array | None = None,
  axis_name: str | None = None,
) -> tuple[Any, Values]:
  """Passes a batch; returns the result, and what changes as it is after."""
  keys = iter(range(len(blueprint.leaves)))
  module = blueprint.assemble(
    _stream_value(leaf, key, next(keys))
    if leaf.collection is None
    else values[leaf]
    for leaf in blueprint.leaves
  )
  module.train() if train else module.eval()
  for _, node in nnx.iter_graph(module):
    if isinstance(node, nnx.BatchNorm | _nnx_parts.Dropout):
      node.axis_name = axis_name
  known = {**_call_arguments(train), "rngs": None}
  asked = {name for name in parameters(blueprint.network) if name in known}
  if "rngs" in asked:
    known["rngs"] = nnx.Rngs(_key_of_stream(key, len(blueprint.leaves)))
  result = module(images, **{name: known[name] for name in asked})
  if not train:
    return result, {}
  return result, {
    leaf: _one_value(blueprint, leaf, values[leaf], value)
    for leaf, value in blueprint.take_apart(module).items()
    if leaf.collection not in (None, "params")
  }


def _stream_value(leaf: Leaf, key: Array | None, number: int) -> Array:
  """A key of its own for every stream, and zero for the number of its uses."""
  if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jnp.zeros(leaf.shape, leaf.dtype)
  stream = _key_of_stream(key, number)
  return jax.random.split(stream, leaf.shape) if leaf.shape else stream


def _key_of_stream(key: Array | None, number: int) -> Array:
  """In evaluation there is no key, and nothing that is drawn is used."""
  return jax.random.fold_in(jax.random.key(0) if key is None else key, number)


def _one_value(blueprint: Blueprint, leaf: Leaf, old: Any, new: Any) -> Array:
  """State after a pass: one value on all devices, of the type it had.

  Batch normalisation has taken its statistics over all devices already. Any
  other running mean is the mean of those of the devices' equal parts.
  """
  if jnp.shape(new) != jnp.shape(old):
    raise ConfigError(
      f"{blueprint.network.__name__} changes the shape of '{leaf.name}' from "
      f"{jnp.shape(old)} to {jnp.shape(new)} in its call; keep the shape."
    )
  new, dtype = jnp.asarray(new), jnp.result_type(old)
  if DATA in jax.typeof(new).manual_axis_type.varying:
    if not jnp.issubdtype(new.dtype, jnp.inexact):
      raise ConfigError(
        f"{blueprint.network.__name__} keeps '{leaf.name}' of type {new.dtype} "
        "that depends on the examples, and devices see different ones; keep a "
        "floating-point number, whose mean over the devices is taken."
      )
    new = lax.pmean(new, DATA)
  return new.astype(dtype)


@functools.lru_cache(maxsize=64)
def check_draws(
  blueprint: Blueprint, shape: tuple[int, ...], dtype: Any
) -> None:
  """Raises ConfigError if random numbers would depend on the devices.

  Every device would draw for its own examples, beginning with the same key. So
  no draw may have a shape that grows with the batch; those of `nnx.Dropout` are
  made for each example's place in the whole batch instead.
  """

  def draws(count):
    values = {
      leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
      for leaf in blueprint.leaves
      if leaf.collection is not None
    }
    images = jax.ShapeDtypeStruct((count, *shape[1:]), dtype)

    def forward(arrays, images):
      return run(
        blueprint,
        dict(zip(values, arrays, strict=True)),
        images,
        train=True,
        key=jax.random.key(0),
      )

    traced = jax.make_jaxpr(forward)(list(values.values()), images)
    return _nnx_parts.shapes_of_draws(traced)

  for two, three in zip(draws(2), draws(3), strict=True):
    if two != three:
      raise ConfigError(
        f"{blueprint.network.__name__} draws random numbers of shape {two} for "
        "2 examples by itself, and these would depend on the number of "
        "devices; use nnx.Dropout, made in the constructor and called on "
        "values whose first axis is the batch."
      )
