"""The arrays of a flax nnx module, and the layers that are replaced in it."""

from collections.abc import Iterable, Iterator
import dataclasses
import functools
import inspect
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from okd_jax import layers
from okd_jax.core import Array
from okd_jax.errors import ConfigError

Arguments = tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One array of a module.

  Attributes:
    collection: the linen collection that holds it; "" for the state of random
      number streams, which is not stored.
    names: path inside the collection.
    shape: shape of the array.
    dtype: dtype of the array.
  """

  collection: str
  names: tuple[str, ...]
  shape: tuple[int, ...]
  dtype: Any

  @property
  def name(self) -> str:
    """The path for messages, for example `batch_stats/norm/mean`."""
    return "/".join((self.collection, *self.names))


@dataclasses.dataclass(frozen=True, eq=False)
class Blueprint:
  """The structure of a module, without the values of its arrays.

  Attributes:
    network: class of the module.
    arguments: arguments of its constructor except `rngs`.
    graph: graph definition of the module, and tree structure of its state.
    leaves: the module's arrays, in the order of the state.
  """

  network: type[Any]
  arguments: Arguments
  graph: tuple[Any, Any]
  leaves: tuple[Leaf, ...]

  @property
  def has_streams(self) -> bool:
    """Whether the module holds streams of random numbers."""
    return any(not leaf.collection for leaf in self.leaves)

  def assemble(self, values: Iterable[Any]) -> Any:
    """Returns the module with the given arrays, in the order of `leaves`."""
    definition, structure = self.graph
    return nnx.merge(definition, jax.tree.unflatten(structure, values))

  def take_apart(self, module: nnx.Module) -> dict[Leaf, Any]:
    """Returns a module's arrays, without those that its call has added."""
    found = dict(_arrays(nnx.state(module)))
    return {leaf: found[leaf.collection, leaf.names] for leaf in self.leaves}


def construct(
  network: type[Any], arguments: Arguments, rngs: nnx.Rngs
) -> nnx.Module:
  """Makes a module and marks its traced arrays as data.

  Flax treats an array that is not an `nnx.Variable` as data, but as a static
  attribute while it is traced.
  """
  module: nnx.Module = network(**dict(arguments), rngs=rngs)
  for _, node in nnx.iter_graph(module):
    if isinstance(node, nnx.Pytree):
      for name, value in list(vars(node).items()):
        if isinstance(value, jax.core.Tracer):
          setattr(node, name, nnx.data(value))
  return module


@functools.lru_cache(maxsize=64)
def blueprint(network: type[Any], arguments: Arguments) -> Blueprint:
  """Finds the structure of a network by tracing its constructor.

  Raises:
    ConfigError: if the module holds a random key outside a stream.
  """

  def parts():
    module = construct(network, arguments, nnx.Rngs(0))
    for _, node in nnx.iter_graph(module):
      if isinstance(node, nnx.Dropout):
        node.__class__ = _by_slot(type(node))
    return nnx.split(module)

  definition, state = jax.eval_shape(parts)
  leaves = tuple(
    Leaf(collection, names, value.shape, value.dtype)
    for (collection, names), value in _arrays(state)
  )
  for leaf in leaves:
    if leaf.collection and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      raise ConfigError(
        f"{network.__name__} keeps the random key '{leaf.name}', which cannot "
        "be stored and would be the same in every step; keep nnx.Rngs or "
        "nnx.RngStream instead."
      )
  structure = jax.tree.structure(state)
  return Blueprint(network, arguments, (definition, structure), leaves)


def parameters_of_call(network: type[Any]) -> dict[str, inspect.Parameter]:
  """Parameters of a network's `__call__` after the images, by name."""
  found = list(inspect.signature(network.__call__).parameters.items())[2:]
  return {
    name: parameter
    for name, parameter in found
    if parameter.kind
    in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
  }


def values_of_call(train: bool) -> dict[str, Any]:
  """Arguments that we can pass to a call, except `rngs`."""
  return {
    "train": train,
    "deterministic": not train,
    "use_running_average": not train,
  }


def check_call(network: type[Any]) -> None:
  """Raises ConfigError unless our arguments suffice to call a network."""
  if not any("__call__" in vars(base) for base in network.__mro__):
    raise ConfigError(
      f"{network.__name__} is a network of flax nnx without __call__; define "
      "__call__(self, images), with the argument 'train' if you need it."
    )
  known = (*values_of_call(train=False), "rngs")
  for name, parameter in parameters_of_call(network).items():
    if parameter.default is parameter.empty and name not in known:
      raise ConfigError(
        f"{network.__name__} is a network of flax nnx whose call asks for "
        f"'{name}'; it may take the images and any of {', '.join(known)}: give "
        "other arguments a default."
      )


def check_parts(network: Any, arguments: Arguments) -> None:
  """Raises ConfigError unless trunk and tail together are the whole network."""
  whole, trunk, tail = (
    {
      (leaf.collection, leaf.names[0]): None
      for leaf in blueprint(network, (*arguments, ("part", part))).leaves
      if leaf.collection
    }
    for part in ("whole", "trunk", "tail")
  )
  for collection, name in trunk:
    if (collection, name) in tail:
      raise ConfigError(
        f"both trunk and tail of {network.__name__} make '{name}' "
        f"({collection}), and one network cannot hold both; make every layer "
        "in the part that runs it."
      )
  for collection, name in {**trunk, **tail, **whole}:
    held = (collection, name) in {**trunk, **tail}
    if held != ((collection, name) in whole):
      raise ConfigError(
        f"'{name}' ({collection}) of {network.__name__} is "
        f"{'not in' if held else 'only in'} the whole network; make with "
        "part='whole' what part='trunk' and part='tail' make together."
      )


class Dropout(nnx.Dropout):
  """Dropout whose masks depend on an example's place in the global batch.

  So results do not depend on how the batch is split over devices.

  Attributes:
    axis_name: mesh axis over which the batch is split; None if it is not.
  """

  axis_name: str | None = None

  def __call__(self, inputs, *, deterministic=None, rngs=None):
    off = self.deterministic if deterministic is None else deterministic
    rngs = self.rngs if rngs is None else rngs
    # These cases need no random numbers, or are errors: flax handles them.
    if off is None or off or rngs is None or self.rate in (0.0, 1.0):
      return super().__call__(inputs, deterministic=off, rngs=rngs)
    return layers.drop(
      inputs,
      _next_key(rngs, self.rng_collection),
      rate=self.rate,
      broadcast_dims=self.broadcast_dims,
      axis_name=self.axis_name,
    )


@functools.cache
def _by_slot(layer: type[nnx.Dropout]) -> type[nnx.Dropout]:
  """Our `Dropout`, or a user's subclass of flax's layer based on ours."""
  if issubclass(Dropout, layer):
    return Dropout
  return type(layer.__name__, (layer, Dropout), {})


def _next_key(rngs: Any, collection: str) -> Array:
  if isinstance(rngs, nnx.Rngs):
    return rngs[collection]()
  return rngs() if isinstance(rngs, nnx.RngStream) else rngs


def _arrays(
  state: Any,
) -> Iterator[tuple[tuple[str, tuple[str, ...]], Any]]:
  """Yields collection, path and value of every array of a state."""
  nodes = jax.tree_util.tree_leaves_with_path(
    state, is_leaf=lambda node: isinstance(node, nnx.Variable)
  )
  for path, node in nodes:
    names = tuple(_name(entry) for entry in path)
    if not isinstance(node, nnx.Variable):
      yield ("arrays", names), node
      continue
    for inner, value in jax.tree_util.tree_leaves_with_path(node):
      # The first entry is the variable's attribute `value`.
      within = tuple(_name(entry) for entry in inner[1:])
      yield (_collection(type(node)), names + within), value


def _name(entry: Any) -> str:
  return jax.tree_util.keystr((entry,), simple=True)


def _collection(kind: type) -> str:
  if issubclass(kind, nnx.RngState):
    return ""
  if issubclass(kind, nnx.Param):
    return "params"
  return "batch_stats" if issubclass(kind, nnx.BatchStat) else kind.__name__
