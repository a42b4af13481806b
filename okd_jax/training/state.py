"""The training state, its initial value, and its placement on the devices."""

import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from okd_jax import trees
from okd_jax.core import Array, Method, Outputs, Variables
from okd_jax.devices import mesh as mesh_lib
from okd_jax.errors import ConfigError
from okd_jax.groups import Group, once
from okd_jax.groups.layout import without_params
from okd_jax.training import targets
from okd_jax.training.setup import Setup


@struct.dataclass
class Average:
  """Averaged variables of peers and method, with a memory of their own."""

  params: dict[str, Any]
  memory: dict[str, Variables]


@struct.dataclass
class TrainState:
  """All that changes during training.

  Attributes:
    step: int32 scalar, number of updates made.
    params: parameters learned by gradient, {"peers": ..., "method": ...}.
    memory: every other collection, {"peers": ..., "method": ...}: batch
      statistics, refreshed weights, and what a method remembers of each
      example. The latter is not averaged.
    opt_state: state of the optimiser.
    average: averaged variables, if the method or the setup needs them.
  """

  step: Array
  params: dict[str, Any]
  memory: dict[str, Variables]
  opt_state: Any
  average: Average | None = None


def variables(params: Any, memory: Any, part: str) -> Variables:
  """The linen variables of `part`, "peers" or "method"."""
  return {"params": params[part], **memory[part]}


def init(setup: Setup, key: Array) -> TrainState:
  """Draws the initial state at random and places it on the mesh.

  In a program that is traced, it only draws; what the program returns lies
  where its `out_shardings` say.

  Raises:
    ConfigError: if the logits do not have the shape that the task needs.
  """
  state = _initial_values(setup, key)
  if isinstance(key, jax.core.Tracer):
    return state
  return mesh_lib.place(state, shardings(setup, state))


def abstract(setup: Setup, key: Array) -> Any:
  """The shapes and shardings of a state, without computing one."""
  shapes = jax.eval_shape(lambda k: _initial_values(setup, k), key)
  return jax.tree.map(
    lambda shape, where: jax.ShapeDtypeStruct(
      shape.shape, shape.dtype, sharding=where
    ),
    shapes,
    shardings(setup, shapes),
  )


def _initial_values(setup: Setup, key: Array) -> TrainState:
  peers_key, method_key = jax.random.split(key)
  peers_variables = setup.peers.init(peers_key, setup.example_images())
  method_variables = _init_method(setup, peers_variables, method_key)
  params, memory = _params_and_memory(peers_variables, method_variables)
  averaged = setup.average_decay is not None
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    memory=memory,
    opt_state=jax.jit(setup.optimizer.init)(params),
    average=Average(params, without_per_example(setup.method, memory))
    if averaged
    else None,
  )


def shardings(setup: Setup, state: TrainState) -> Any:
  """The sharding of every leaf of a state or of its shapes."""
  params, memory = specs(setup, state.params, state.memory)
  opt_state = like_params(state.opt_state, state.params, params, otherwise=P())
  average = None
  if state.average is not None:
    average = Average(params, without_per_example(setup.method, memory))
  return dataclasses.replace(
    state,
    **mesh_lib.shardings(
      setup.mesh,
      {
        "step": P(),
        "params": params,
        "memory": memory,
        "opt_state": opt_state,
        "average": average,
      },
    ),
  )


def specs(setup: Setup, params: Any, memory: Any) -> tuple[Any, Any]:
  """The partition specs of parameters and memory."""
  peers = setup.peers.specs(variables(params, memory, "peers"))
  method = {
    name: jax.tree.map(lambda _, n=name: _spec(setup, n), tree)
    for name, tree in variables(params, memory, "method").items()
  }
  return _params_and_memory(peers, method)


def owners(setup: Setup, params: Any, memory: Any) -> tuple[Any, Any]:
  """The peers along the first axis of every array; none if it is shared."""
  peers = setup.peers.owners(variables(params, memory, "peers"))
  method = jax.tree.map(lambda _: range(0), variables(params, memory, "method"))
  return _params_and_memory(peers, method)


def _params_and_memory(peers: Any, method: Any) -> tuple[Any, Any]:
  parts = {"peers": peers, "method": method}
  return (
    {part: tree.get("params", {}) for part, tree in parts.items()},
    {part: without_params(tree) for part, tree in parts.items()},
  )


def like_params(
  opt_state: Any, params: Any, values: Any, otherwise: Any
) -> Any:
  """A tree for the optimiser's state, made from one for the parameters.

  Every optimiser keeps its arrays for a parameter under the name of that
  parameter. They are split like the parameter if their first axes are equal.

  Args:
    opt_state: arrays or their shapes.
    params: arrays or their shapes.
    values: one value for each parameter.
    otherwise: value for arrays that belong to no parameter or have another
      first axis.
  """
  by_path: dict[Any, tuple[Any, Any]] = {}

  def note(path, leaf, value):
    by_path[path] = leaf.shape[:1], value

  jax.tree_util.tree_map_with_path(note, params, values)
  lengths = {len(path) for path in by_path}

  def choose(path, leaf):
    for length in lengths:
      first, value = by_path.get(path[-length:], (None, None))
      if first == leaf.shape[:1]:
        return value
    return otherwise

  return jax.tree_util.tree_map_with_path(choose, opt_state)


def outputs_like(setup: Setup, peers_variables: Variables) -> Outputs:
  """Shapes of the outputs that the method sees for one batch.

  Raises:
    ConfigError: if the logits do not have the shape that the task needs.
  """
  images = setup.task.blank(setup.mesh.shape[mesh_lib.DATA]).image
  if setup.has_views:
    images = jnp.stack([images] * setup.peers.num_peers)

  peers = setup.peers
  if peers.mapping == "auto":  # traced once, and not again when it is chosen
    peers = dataclasses.replace(peers, mapping="unroll")
  outputs = _forward(peers).eval_shape(peers_variables, images)
  found, wanted = outputs.logits.shape[2:], setup.task.out_shape()
  if found != wanted:
    raise ConfigError(
      f"config.peers.net: the logits of an image have shape {found}, and these "
      f"data need {wanted}; let the network use num_classes."
    )
  return targets.shapes(setup, outputs)


@once.by_value
def _forward(peers: Group) -> Any:
  return jax.jit(
    lambda variables, images: peers.apply(
      variables, images, jax.random.key(0), train=False
    )[0]
  )


def _spec(setup: Setup, collection: str) -> P:
  per_example = collection in setup.method.needs.per_example
  divides = setup.num_examples % setup.mesh.shape[mesh_lib.DATA] == 0
  return P(mesh_lib.DATA) if per_example and divides else P()


def without_per_example(method: Method, memory: Any) -> Any:
  """The memory without what the method remembers of each example."""
  return memory | {
    "method": {
      name: tree
      for name, tree in memory["method"].items()
      if name not in method.needs.per_example
    }
  }


def with_per_example(method: Method, memory: Any, source: Any) -> Any:
  """The memory with what the method remembers of each example in `source`."""
  taken = {
    name: source["method"][name]
    for name in method.needs.per_example
    if name in source["method"]
  }
  return memory | {"method": memory["method"] | taken}


def _init_method(
  setup: Setup, peers_variables: Variables, key: Array
) -> Variables:
  shapes = outputs_like(setup, peers_variables)
  made: Variables = once.jitted(_draw_method, setup, shapes)(key)
  _check_per_example(setup, made)
  return made


def _draw_method(setup: Setup, shapes: Outputs, key: Array) -> Any:
  outputs = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  batch = setup.task.blank(shapes.logits.shape[1])
  labels = None
  if setup.method.needs.train_labels:
    labels = jnp.zeros(setup.num_examples, jnp.int32)
  ctx = setup.context(
    jnp.zeros((), jnp.int32), key, train=True, train_labels=labels
  )
  return setup.method.init(key, outputs, batch, ctx)


def _check_per_example(setup: Setup, made: Variables) -> None:
  for name in setup.method.needs.per_example:
    for where, leaf in trees.named({name: made.get(name, {})}):
      if leaf.shape[:1] != (setup.num_examples,):
        raise ConfigError(
          f"{where} of the method has shape {leaf.shape}, and the method needs "
          "it per example; make its first axis ctx.num_examples="
          f"{setup.num_examples} long, or take '{name}' out of "
          "needs.per_example."
        )
