"""State of a stem through which every peer's view passes, as if in turn.

A running average changes from r to m r + (1 - m) s with every pass. For batch
normalisation, whose momentum m is known, the results of views that start from
the same r are combined. Any other state of a stem is passed from view to view.
"""

import functools
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from okd_jax import layers, trees
from okd_jax.core import Array, Variables
from okd_jax.devices.mesh import PEER
from okd_jax.groups import once
from okd_jax.groups.errors import GroupError
from okd_jax.groups.forward import apply_network, over_peers, Pass
from okd_jax.groups.layout import without_params
from okd_jax.groups.map_peers import map_peers

Momenta = dict[str, float]


@once.remembered
def momenta(net: nn.Module, images: Any) -> tuple[Variables, Momenta]:
  """Shapes of a network's variables, and how its running averages move.

  Args:
    net: the network.
    images: its input, or the shape of it.

  Returns:
    Shapes of its variables, and the momentum of every running average of batch
    normalisation, by name. Layers that are called more than once, and
    subclasses, which may do anything, are left out.
  """
  calls: dict[tuple[str, ...], list[float]] = {}

  def record(call, args, kwargs, context):
    module = context.module
    if context.method_name == "__call__":
      if type(module) is nn.BatchNorm:
        calls.setdefault(module.path, []).append(module.momentum)
      elif type(module) is layers.BatchNorm:
        calls.setdefault(module.path, []).append(layers.MOMENTUM)
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    shapes = jax.eval_shape(
      functools.partial(once.variables, net), jax.random.key(0), images
    )
  return shapes, {
    "/".join(("batch_stats", *path, name)): found[0]
    for path, found in calls.items()
    for name in ("mean", "var")
    if len(found) == 1
  }


def foreign(variables: Variables, known: Momenta) -> list[str]:
  """Names of the state that does not belong to batch normalisation."""
  return [
    name
    for name, _ in trees.named(without_params(variables))
    if name not in known
  ]


def through_stem(
  net: nn.Module,
  variables: Variables,
  views: Array,
  keys: Array,
  num_peers: int,
  mapping: str,
  train: bool,
) -> tuple[Any, Variables]:
  """Passes the views on this device, [n, B, H, W, c], through the stem.

  Returns:
    The input of the tails, with the same leading axis, and the stem's state
    after all views in peer order.

  Raises:
    GroupError: if views on several devices would have to wait for each other.
  """
  through = apply_network(net, train)
  known: Momenta = {}
  if train and without_params(variables):
    view = jax.ShapeDtypeStruct((1, *views.shape[2:]), views.dtype)
    known = momenta(net, view)[1]
    names = foreign(variables, known)
    if names:
      _require_one_device(net, names)
      return _one_after_another(through, variables, views, keys)
  hidden, after = map_peers(through, mapping, (None, 0, 0))(
    variables, views, keys
  )
  return hidden, _in_peer_order(variables, after, num_peers, known)


def _require_one_device(net: nn.Module, names: list[str]) -> None:
  if lax.axis_size(PEER) > 1:
    raise GroupError(
      f"config.mesh.peer={lax.axis_size(PEER)} must be 1 here: every peer has "
      f"a view of its own, and the trunk of {type(net).__name__} keeps "
      f"'{names[0]}', which the views have to pass one after another; set "
      "config.mesh.peer=1, or config.method.views=False."
    )


def _one_after_another(
  through: Pass, stem: Variables, views: Array, keys: Array
) -> tuple[Array, Variables]:
  """Passes views [P, B, ...], each with the state after the one before."""
  jitted = jax.jit(through)
  hidden, state = [], without_params(stem)
  for view, key in zip(views, keys, strict=True):
    # As between steps, what an earlier view left is a constant.
    result, state = jitted({**stem, **lax.stop_gradient(state)}, view, key)
    hidden.append(result)
  stacked = jax.tree.map(lambda *each: jnp.stack(each), *hidden)
  return stacked, over_peers(state)


def _in_peer_order(
  before: Variables, after: Variables, num_peers: int, known: Momenta
) -> Variables:
  """Running averages after one update for each view, in peer order.

  Every view's pass started from the same averages r and ended with
  m r + (1 - m) s_j, where m is the momentum; one after another they give
  m^P r + sum_j m^(P-1-j) (1 - m) s_j.
  """

  def combine(path, old, new):
    momentum = known[trees.name(path)]
    index = lax.axis_index(PEER) * len(new) + jnp.arange(len(new))
    weight = (momentum ** (num_peers - 1 - index)).astype(new.dtype)
    own = jnp.tensordot(weight, new - momentum * old, 1)
    return momentum**num_peers * old + lax.psum(own, PEER)

  return jax.tree_util.tree_map_with_path(
    combine, {name: before[name] for name in after}, after
  )
