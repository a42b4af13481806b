"""The training state, its initial value, and how it lies on the devices."""

import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import optax

from okd_jax.core import Array, Batch, Outputs, Variables
from okd_jax.devices import mesh as mesh_lib
from okd_jax.training import targets
from okd_jax.training.setup import Recipe


@struct.dataclass
class Average:
  """Averaged peers and method variables, with their own memory."""

  params: dict[str, Any]
  memory: dict[str, Variables]


@struct.dataclass
class TrainState:
  """All that changes during training.

  Attributes:
    step: int32 scalar, number of updates made.
    params: learned by gradient, {"peers": ..., "method": ...}.
    memory: every other collection, {"peers": ..., "method": ...}: batch
      statistics, refreshed weights.
    opt_state: of the optimiser.
    average: averaged variables, for methods that need them.
  """

  step: Array
  params: dict[str, Any]
  memory: dict[str, Variables]
  opt_state: Any
  average: Average | None = None


def variables(params: Any, memory: Any, part: str) -> Variables:
  """The linen variables of `part`, "peers" or "method"."""
  return {"params": params[part], **memory[part]}


def init(recipe: Recipe, key: Array) -> TrainState:
  """Draws the initial state and places it on the mesh."""
  state = _initial_values(recipe, key)
  return mesh_lib.place(state, shardings(recipe, state))


def abstract(recipe: Recipe, key: Array) -> Any:
  """The shapes and shardings of a state, without computing one."""
  shapes = jax.eval_shape(lambda k: _initial_values(recipe, k), key)
  return jax.tree.map(
    lambda shape, where: jax.ShapeDtypeStruct(
      shape.shape, shape.dtype, sharding=where
    ),
    shapes,
    shardings(recipe, shapes),
  )


def _initial_values(recipe: Recipe, key: Array) -> TrainState:
  peers_key, method_key = jax.random.split(key)
  peers_variables = recipe.peers.init(peers_key, recipe.example_images())
  parts = {
    "peers": peers_variables,
    "method": _init_method(recipe, peers_variables, method_key),
  }
  params = {part: tree.get("params", {}) for part, tree in parts.items()}
  memory = {
    part: {name: v for name, v in tree.items() if name != "params"}
    for part, tree in parts.items()
  }
  averaged = recipe.method.needs.ema_decay is not None
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    memory=memory,
    opt_state=jax.jit(recipe.optimizer.init)(params),
    average=Average(params, memory) if averaged else None,
  )


def shardings(recipe: Recipe, state: TrainState) -> Any:
  """The sharding of every leaf of a state or of its shapes."""
  params, memory = specs(recipe, state.params, state.memory)
  opt_state = like_params(recipe, state.opt_state, params, otherwise=P())
  average = None if state.average is None else Average(params, memory)
  return dataclasses.replace(
    state,
    **mesh_lib.shardings(
      recipe.mesh,
      {
        "step": P(),
        "params": params,
        "memory": memory,
        "opt_state": opt_state,
        "average": average,
      },
    ),
  )


def specs(recipe: Recipe, params: Any, memory: Any) -> tuple[Any, Any]:
  """The partition specs of parameters and memory."""
  peers = recipe.peers.specs(variables(params, memory, "peers"))
  method = jax.tree.map(lambda _: P(), variables(params, memory, "method"))
  return _params_and_memory(peers, method)


def owners(recipe: Recipe, params: Any, memory: Any) -> tuple[Any, Any]:
  """The peers that the first axis of every array counts, none if shared."""
  peers = recipe.peers.owners(variables(params, memory, "peers"))
  method = jax.tree.map(lambda _: range(0), variables(params, memory, "method"))
  return _params_and_memory(peers, method)


def _params_and_memory(peers: Any, method: Any) -> tuple[Any, Any]:
  parts = {"peers": peers, "method": method}
  return (
    {part: tree["params"] for part, tree in parts.items()},
    {
      part: {name: v for name, v in tree.items() if name != "params"}
      for part, tree in parts.items()
    },
  )


def like_params(
  recipe: Recipe, opt_state: Any, params: Any, otherwise: Any
) -> Any:
  """A tree for the optimiser's state from one for the parameters.

  What belongs to no parameter gets `otherwise`.
  """

  def choose(leaf, value):
    # Where settings differ by prefix, each group leaves the others' out.
    return leaf if isinstance(leaf, optax.MaskedNode) else value

  return optax.tree.map_params(
    recipe.optimizer,
    choose,
    opt_state,
    params,
    transform_non_params=lambda _: otherwise,
    is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode),
  )


def outputs_like(recipe: Recipe, peers_variables: Variables) -> Outputs:
  """Shapes of the outputs that the method sees for one batch."""
  size = recipe.mesh.shape[mesh_lib.DATA]
  images = jnp.zeros((size, *recipe.info.image_shape), recipe.image_dtype)
  if recipe.method.needs.views:
    images = jnp.stack([images] * recipe.peers.num_peers)

  def forward(peers_variables):
    return recipe.peers.apply(
      peers_variables, images, jax.random.key(0), train=False
    )[0]

  outputs = jax.eval_shape(forward, peers_variables)
  return targets.shapes(recipe, outputs)


def _init_method(
  recipe: Recipe, peers_variables: Variables, key: Array
) -> Variables:
  shapes = outputs_like(recipe, peers_variables)
  size = shapes.logits.shape[1]

  def init(key):
    outputs = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    batch = Batch(
      image=jnp.zeros((size, *recipe.info.image_shape), jnp.uint8),
      label=jnp.zeros(size, jnp.int32),
      index=jnp.zeros(size, jnp.int32),
      mask=jnp.ones(size, bool),
    )
    ctx = recipe.context(jnp.zeros((), jnp.int32), key, train=True)
    return recipe.method.init(key, outputs, batch, ctx)

  return jax.jit(init)(key)
