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
from jax import lax
import jax.numpy as jnp

from okd_jax.backbones import _nnx_parts, _nnx_pass
from okd_jax.backbones._nnx_parts import Blueprint
from okd_jax.backbones._nnx_pass import Values
from okd_jax.core import Array
from okd_jax.devices.mesh import DATA
from okd_jax.errors import ConfigError


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
  constructor = inspect.signature(network)
  try:
    constructor.bind(num_classes=num_classes, rngs=None, **options)
  except TypeError as error:
    given = ", ".join(["num_classes", "rngs", *sorted(options)])
    raise ConfigError(
      f"{network.__name__} is a network of flax nnx that cannot be made with "
      f"the arguments {given} ({error}); give its constructor these arguments."
    ) from error
  _nnx_pass.check_call(network)
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
    if self.is_initializing():
      _nnx_pass.check_draws(
        blueprint, jnp.shape(images), jnp.result_type(images)
      )
      values = _first_values(blueprint, self.make_rng("params"))
      self._store(values)
      return _nnx_pass.run(blueprint, values, images)[0]
    values = _stored_values(blueprint, self.variables)
    if not train:
      return _nnx_pass.run(blueprint, values, images)[0]
    draws = blueprint.has_streams or "rngs" in _nnx_pass.parameters(
      self.network
    )
    key = self.make_rng("dropout") if draws else None
    result, after = _nnx_pass.run(
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
      collection = leaf.collection
      if collection is not None and self.is_mutable_collection(collection):
        tree = collections.setdefault(collection, {})
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


def _first_values(blueprint: Blueprint, key: Array) -> Values:
  module = _nnx_parts.make(blueprint.network, blueprint.arguments, key)
  return {
    leaf: jnp.asarray(value, jnp.result_type(value))
    for leaf, value in blueprint.take_apart(module).items()
    if leaf.collection is not None
  }


def _stored_values(blueprint: Blueprint, variables: Any) -> Values:
  values = {}
  for leaf in blueprint.leaves:
    if leaf.collection is not None:
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
