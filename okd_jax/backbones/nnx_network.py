"""Networks of flax nnx, seen as linen modules.

Groups, state, optimiser, checkpoints and export know linen variables only.
`NnxNetwork` makes the nnx module once for its variables, and in every pass puts
it together again from these: parameters are in `params`, batch statistics in
`batch_stats`, variables of any other type in a collection of the type's name,
and arrays that are no variables in `arrays`. Streams of random numbers are
never kept: every pass takes new keys from linen's key for dropout.
"""

from collections.abc import Mapping
import functools
import inspect
from typing import Any

from flax import linen as nn, nnx
import jax
from jax import lax
import jax.numpy as jnp

from okd_jax import layers
from okd_jax.backbones import _nnx_parts
from okd_jax.backbones._nnx_parts import Blueprint, Leaf
from okd_jax.core import Array
from okd_jax.devices.mesh import DATA
from okd_jax.errors import ConfigError

Values = dict[Leaf, Array]


def make(
  network: type[nnx.Module], num_classes: int, **options: Any
) -> "NnxNetwork":
  """Wraps a class of flax nnx.

  Args:
    network: made as `network(num_classes=..., rngs=..., **options)` and called
      as `net(images)`, or with any of `train`, `deterministic`,
      `use_running_average` and `rngs`.
    num_classes: C.
    **options: further arguments of the constructor.

  Returns:
    A linen module called as `net(images, train=...)`, with a field `part` if
    the constructor has such an argument.

  Raises:
    ConfigError: if the class is not made or called like this.
  """
  # The class itself shows the signature of flax's metaclass.
  constructor = inspect.signature(network.__init__)
  try:
    constructor.bind(None, num_classes=num_classes, rngs=None, **options)
  except TypeError as error:
    given = ", ".join(["num_classes", "rngs", *sorted(options)])
    raise ConfigError(
      f"{network.__name__} is a network of flax nnx that cannot be made with "
      f"the arguments {given} ({error}); give its constructor these arguments."
    ) from error
  _nnx_parts.check_call(network)
  has_part = "part" in constructor.parameters
  base = PartedNnxNetwork if has_part else NnxNetwork
  return _named_after(network, base)(
    network, num_classes, tuple(sorted(options.items()))
  )


class NnxNetwork(nn.Module):
  """A linen module that makes and runs a network of flax nnx.

  Attributes:
    network: the class.
    num_classes: C.
    options: further arguments of its constructor, as sorted pairs.
  """

  network: type[nnx.Module]
  num_classes: int
  options: tuple[tuple[str, Any], ...] = ()

  def __call__(self, images: Array, *, train: bool) -> Any:
    """Returns what the network returns; initialisation is an evaluation."""
    blueprint = self._blueprint()
    draws = blueprint.has_streams or "rngs" in _nnx_parts.parameters_of_call(
      self.network
    )
    if self.is_initializing():
      if draws:
        _check_draws(blueprint, jnp.shape(images)[1:])
      values = _first_values(blueprint, self.make_rng("params"))
      self._store(values)
      return _run(blueprint, values, images)[0]
    values = _stored_values(blueprint, self.variables)
    if not train:
      return _run(blueprint, values, images)[0]
    key = self.make_rng("dropout") if draws else None
    result, after = _run(
      blueprint, values, images, train=True, key=key, axis_name=_data_axis()
    )
    self._store(after)
    return result

  def _arguments(self) -> tuple[tuple[str, Any], ...]:
    return (("num_classes", self.num_classes), *self.options)

  def _blueprint(self) -> Blueprint:
    return _nnx_parts.blueprint(self.network, self._arguments())

  def _store(self, values: Values) -> None:
    """Puts values into the collections that may change."""
    collections: dict[str, dict[str, Any]] = {}
    for leaf, value in values.items():
      if self.is_mutable_collection(leaf.collection):
        tree = collections.setdefault(leaf.collection, {})
        for name in leaf.names[:-1]:
          tree = tree.setdefault(name, {})
        tree[leaf.names[-1]] = value
    for collection, tree in collections.items():
      for name, value in tree.items():
        self.put_variable(collection, name, value)


class PartedNnxNetwork(NnxNetwork):
  """The same for a class whose constructor has an argument `part`.

  Attributes:
    part: "whole", "trunk" or "tail".
  """

  part: str = "whole"

  def _arguments(self) -> tuple[tuple[str, Any], ...]:
    return (*super()._arguments(), ("part", self.part))

  def _blueprint(self) -> Blueprint:
    if self.part != "whole":
      _nnx_parts.check_parts(self.network, super()._arguments())
    return super()._blueprint()


@functools.cache
def _named_after(network: type, base: type) -> Any:
  """A subclass with the user's name, for messages and summaries."""
  return type(network.__name__, (base,), {"__module__": network.__module__})


def _run(
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
    values[leaf] if leaf.collection else _stream_value(leaf, key, next(keys))
    for leaf in blueprint.leaves
  )
  module.train() if train else module.eval()
  for _, node in nnx.iter_graph(module):
    if isinstance(node, nnx.BatchNorm | _nnx_parts.Dropout):
      node.axis_name = axis_name
  known = {**_nnx_parts.values_of_call(train), "rngs": None}
  asked = {
    name
    for name in _nnx_parts.parameters_of_call(blueprint.network)
    if name in known
  }
  if "rngs" in asked:
    known["rngs"] = nnx.Rngs(_key_of_stream(key, len(blueprint.leaves)))
  result = module(images, **{name: known[name] for name in asked})
  if not train:
    return result, {}
  return result, {
    leaf: _one_value(blueprint, leaf, values[leaf], value)
    for leaf, value in blueprint.take_apart(module).items()
    if leaf.collection not in ("", "params")
  }


def _stream_value(leaf: Leaf, key: Array | None, number: int) -> Array:
  """A key of its own for every stream, and zero for the number of its uses."""
  if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jnp.zeros(leaf.shape, leaf.dtype)
  own = _key_of_stream(key, number)
  return jax.random.split(own, leaf.shape) if leaf.shape else own


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


def _first_values(blueprint: Blueprint, key: Array) -> Values:
  module = _nnx_parts.construct(
    blueprint.network, blueprint.arguments, nnx.Rngs(key)
  )
  return {
    leaf: jnp.asarray(value, jnp.result_type(value))
    for leaf, value in blueprint.take_apart(module).items()
    if leaf.collection
  }


def _stored_values(blueprint: Blueprint, variables: Any) -> Values:
  values = {}
  for leaf in blueprint.leaves:
    if leaf.collection:
      tree = variables.get(leaf.collection, {})
      for name in leaf.names:
        tree = tree.get(name, {})
      if isinstance(tree, Mapping):
        raise ConfigError(
          f"the variables have no '{leaf.name}', which "
          f"{blueprint.network.__name__} makes; take variables of this network."
        )
      values[leaf] = tree
  return values


def _data_axis() -> str | None:
  """The mesh axis that the batch is split over, inside `shard_map`."""
  try:
    lax.axis_size(DATA)
  except NameError:
    return None
  return DATA


@functools.lru_cache(maxsize=64)
def _check_draws(blueprint: Blueprint, image_shape: tuple[int, ...]) -> None:
  """Raises ConfigError if random numbers would depend on the devices.

  Every device would draw for its own examples, beginning with the same key. So
  no draw may have a shape that grows with the batch; those of `nnx.Dropout` are
  made for each example's place in the whole batch instead.
  """

  def draws(count):
    values = {
      leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
      for leaf in blueprint.leaves
      if leaf.collection
    }
    images = jax.ShapeDtypeStruct((count, *image_shape), jnp.float32)

    def forward(arrays, images):
      given = dict(zip(values, arrays, strict=True))
      key = jax.random.key(0)
      return _run(blueprint, given, images, train=True, key=key)[0]

    traced = jax.make_jaxpr(forward)(list(values.values()), images)
    return layers.shapes_of_draws(traced)

  for two, three in zip(draws(2), draws(3), strict=True):
    if two != three:
      raise ConfigError(
        f"{blueprint.network.__name__} draws random numbers of shape {two} for "
        "2 examples by itself, and these would depend on the number of "
        "devices; use nnx.Dropout, made in the constructor and called on "
        "values whose first axis is the batch."
      )
