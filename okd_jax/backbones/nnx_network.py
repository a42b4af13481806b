"""Networks of flax nnx as linen modules.

Groups, state, optimiser, checkpoints and export only know linen variables.
`NnxNetwork` makes the nnx module once to get its variables, and assembles it
again from them in every forward pass. Parameters are in `params`, batch
statistics in `batch_stats`, variables of any other type in a collection with
the name of the type, and arrays that are not variables in `arrays`. The state
of random number streams is not kept: every training pass makes new keys from
linen's key for dropout.
"""

from collections.abc import Mapping
import functools
import inspect
from typing import Any

from flax import linen as nn, nnx
import jax
from jax import lax
import jax.numpy as jnp

from okd_jax import outside
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
    network: class whose constructor is called as `network(num_classes=...,
      rngs=..., **options)`. Its instances are called as `net(images)`, with
      those of the arguments `train`, `deterministic`, `use_running_average` and
      `rngs` that they have.
    num_classes: number C of classes.
    **options: further arguments of the constructor.

  Returns:
    A linen module called as `net(images, train=...)`, with a field `part` if
    the constructor has such an argument.

  Raises:
    ConfigError: if the class cannot be constructed or called like this.
  """
  # The signature of the class itself would be that of flax's metaclass.
  constructor = inspect.signature(network.__init__)
  try:
    constructor.bind(None, num_classes=num_classes, rngs=None, **options)
  except TypeError as error:
    given = ", ".join(["num_classes", "rngs", *sorted(options)])
    raise ConfigError(
      f"{network.__name__} is a network of flax nnx that cannot be made with "
      f"the arguments {given} ({error}); give its constructor these arguments"
      f"{outside.or_unset(options)}."
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
    network: class of the nnx network.
    num_classes: number C of classes.
    options: further arguments of its constructor, as sorted pairs of name and
      value.
  """

  network: type[nnx.Module]
  num_classes: int
  options: tuple[tuple[str, Any], ...] = ()

  def __call__(self, images: Array, *, train: bool) -> Any:
    """Runs the network on images [B, H, W, c] and returns its result.

    Initialisation runs it in evaluation mode.
    """
    blueprint = self._blueprint()
    draws = blueprint.has_streams or "rngs" in _nnx_parts.parameters_of_call(
      self.network
    )
    if self.is_initializing():
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
    """Writes values into those collections that are mutable."""
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
  """`NnxNetwork` for a class whose constructor has an argument `part`.

  Attributes:
    part: "whole", "trunk" or "tail", as in `okd_jax.backbones.network.Network`.
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
  """A subclass with the name of the user's class, for messages."""
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
  """Runs a batch; returns the result and, in training, the new state."""
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
  """The initial state of a stream: a key of its own, and a use count of 0."""
  if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jnp.zeros(leaf.shape, leaf.dtype)
  own = _key_of_stream(key, number)
  return jax.random.split(own, leaf.shape) if leaf.shape else own


def _key_of_stream(key: Array | None, number: int) -> Array:
  """The key of stream `number`; any key will do in evaluation, without key."""
  return jax.random.fold_in(jax.random.key(0) if key is None else key, number)


def _one_value(blueprint: Blueprint, leaf: Leaf, old: Any, new: Any) -> Array:
  """The new value of a state array: the same on all devices, its dtype kept.

  Batch norm has computed its statistics over all devices already. Other values
  that differ between devices are averaged; devices have equal parts of the
  batch.
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
  """Inside `shard_map`, the mesh axis over which the batch is split."""
  try:
    lax.axis_size(DATA)
  except NameError:
    return None
  return DATA
