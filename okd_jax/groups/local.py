"""What one device computes of a group, inside `shard_map`."""

from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from okd_jax import layers, losses
from okd_jax.batch import has_views
from okd_jax.core import Array, Outputs, Variables
from okd_jax.devices.mesh import PEER
from okd_jax.groups import views
from okd_jax.groups.errors import check_trunk
from okd_jax.groups.forward import (
  apply_network,
  over_peers,
  Pass,
  peer_keys,
  with_outputs,
)
from okd_jax.groups.layout import Stack
from okd_jax.groups.map_peers import map_peers


def through_stacks(
  stacks: Sequence[Stack],
  variables: Sequence[Variables],
  images: Any,
  key: Array,
  *,
  mapping: str,
  viewed: bool,
  only_first: bool,
  train: bool,
) -> tuple[list[Outputs], list[Variables]]:
  """Passes a batch, or one view per peer, through the peers on this device.

  With `only_first`, only the first peer sends a gradient into the input.

  Returns:
    For every stack the outputs with a leading peer axis, and the new state.
  """
  results, after, first = [], [], 0
  for i, (stack, own) in enumerate(zip(stacks, variables, strict=True)):
    count = stack.count // lax.axis_size(PEER)
    seen, stack_key = images, key
    if len(stacks) > 1:
      stack_key = jax.random.fold_in(key, i)
      if viewed:
        seen = jax.tree.map(lambda x, i=first, n=count: x[i : i + n], images)
    through = with_outputs(apply_network(stack.net, train))
    axes: tuple[int | None, ...] = (0, 0 if viewed else None, 0)
    args: tuple[Any, ...] = (own, seen, peer_keys(stack_key, count))
    if only_first:
      place = first + lax.axis_index(PEER) * count + jnp.arange(count)
      shares = (place == 0).astype(jnp.float32)
      through, axes, args = _sharing(through), (*axes, 0), (*args, shares)
    result, state = map_peers(through, mapping, axes)(*args)
    results.append(result)
    after.append(state)
    first += count
  return results, after


def _sharing(through: Pass) -> Callable[..., tuple[Outputs, Variables]]:
  """The same with the share of each peer's gradient that enters its input."""

  def wrapped(variables, images, key, share):
    seen = jax.tree.map(lambda x: losses.scale_gradient(x, share), images)
    return through(variables, seen, key)

  return wrapped


def through_stem(
  net: nn.Module,
  variables: Variables,
  images: Array,
  key: Array,
  *,
  num_peers: int,
  mapping: str,
  mean_gradient: bool,
  train: bool,
) -> tuple[Any, Array, Variables]:
  """Passes a batch, or one view per peer, through the stem that peers share.

  Returns:
    The input of the tails, its average over positions, and the new state.
  """
  # Each device sums its own peers' gradients of the stem's parameters, so that
  # parameters, not activations, are summed over devices.
  params = jax.tree.map(
    lambda v: lax.pcast(v, PEER, to="varying"), variables.get("params", {})
  )
  variables = variables | {"params": params}
  viewed = has_views(images)
  if viewed:
    # Folding in P, beyond every peer index, keeps the masks apart.
    keys = jax.vmap(jax.random.fold_in, (0, None))(
      peer_keys(key, num_peers // lax.axis_size(PEER)), num_peers
    )
    hidden, after = views.through_stem(
      net, variables, images, keys, num_peers, mapping, train
    )
  else:
    stem_key = jax.random.fold_in(key, num_peers)
    hidden, after = apply_network(net, train)(variables, images, stem_key)
    after = over_peers(after)
  check_trunk(net, hidden)
  positions = tuple(range(1 + viewed, hidden.ndim - 1))
  pooled = layers.at_least_float32(jnp.mean(hidden, positions))
  if not viewed:
    pooled = lax.pmean(pooled, PEER)
  if mean_gradient:
    hidden = losses.scale_gradient(hidden, 1 / num_peers)
  return hidden, pooled, after
