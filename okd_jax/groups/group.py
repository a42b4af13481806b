"""Groups of peers behind one interface: networks, branches, or a mixture.

The peers' forward pass runs in `shard_map` over both mesh axes; everything
after it is plain global code. Vmapped convolutions are grouped convolutions,
whose gradients the automatic partitioner handles badly, and inside `shard_map`
a device sees only its own peers and its own part of the batch.
"""

import abc
from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec as P

from okd_jax import layers, losses
from okd_jax.core import Array, Outputs, Variables
from okd_jax.devices.mesh import DATA, PEER
from okd_jax.errors import ConfigError
from okd_jax.groups.map_peers import across_devices, map_peers, MAPPINGS


class Peers(abc.ABC):
  """A group of `num_peers` networks that see the same batch."""

  num_peers: int
  mesh: Mesh

  @abc.abstractmethod
  def init(self, key: Array, images: Array) -> Variables:
    """Draws independent variables for every peer.

    Args:
      key: random key.
      images: float [1, H, W, c], for their shape only.
    """

  @abc.abstractmethod
  def specs(self, variables: Variables) -> Variables:
    """Returns the partition spec of every variable."""

  @abc.abstractmethod
  def apply(
    self, variables: Variables, images: Array, key: Array, *, train: bool
  ) -> tuple[Outputs, Variables]:
    """Passes a batch through every peer.

    Args:
      variables: as from `init`.
      images: float [B, H, W, c], or one view a peer [P, B, H, W, c].
      key: random key for dropout.
      train: normalise by the statistics of the whole batch and drop values;
        otherwise use running statistics.

    Returns:
      The outputs, and the collections other than `params` as they are after
      the pass (unchanged unless `train`).
    """

  @abc.abstractmethod
  def extract(
    self, variables: Variables, peer: int
  ) -> tuple[nn.Module, Variables]:
    """Takes one peer out, as a whole network with its own variables."""


def _apply_network(net: nn.Module, train: bool) -> Callable[..., Any]:
  """Returns fn(variables, images, key) -> (result, statistics)."""

  def fn(variables, images, key):
    if not train:
      return net.apply(variables, images, train=False), {}
    mutable = [name for name in variables if name != "params"]
    with across_devices(DATA):
      result, statistics = net.apply(
        variables, images, train=True, mutable=mutable, rngs={"dropout": key}
      )
    return result, statistics

  return fn


def as_outputs(result: Any) -> Outputs:
  """Accepts what a user's network returns: logits, with or without features."""
  if isinstance(result, Outputs):
    outputs = result
  elif isinstance(result, tuple):
    outputs = Outputs(logits=result[0], features=result[1])
  else:
    outputs = Outputs(logits=result, features=result)
  return dataclasses.replace(
    outputs,
    logits=layers.at_least_float32(outputs.logits),
    features=jax.tree.map(layers.at_least_float32, outputs.features),
  )


def _peer_keys(key: Array, count: int) -> Array:
  """One key for each peer on this device, by its index in the whole group."""
  first = lax.axis_index(PEER) * count
  return jax.vmap(lambda i: jax.random.fold_in(key, first + i))(
    jnp.arange(count)
  )


def _init_stacked(
  net: nn.Module, key: Array, num_peers: int, example: Array
) -> Variables:
  """Compiles the initialisation of one network and runs it for every peer."""
  init = jax.jit(functools.partial(net.init, train=False))
  each = [init(jax.random.fold_in(key, i), example) for i in range(num_peers)]
  return _stack(each)


@jax.jit
def _stack(each: list[Variables]) -> Variables:
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)


def _check(num_peers: int, mesh: Mesh, mapping: str) -> None:
  if num_peers < 1:
    raise ConfigError(f"config.peers.num_peers={num_peers} must be at least 1.")
  if num_peers % mesh.shape[PEER]:
    raise ConfigError(
      f"config.mesh.peer={mesh.shape[PEER]} must divide "
      f"config.peers.num_peers={num_peers}; change one of them."
    )
  if mapping not in MAPPINGS:
    raise ConfigError(
      f"config.peers.mapping='{mapping}' must be one of {MAPPINGS}."
    )


@dataclasses.dataclass(frozen=True)
class Replicas(Peers):
  """Network-based group: complete networks of one shape, nothing shared.

  Attributes:
    net: a linen module called as `net(images, train=...)`. It returns
      `Outputs` without the peer axis, `(logits, features)`, or logits.
    num_peers: P.
    mesh: its peer axis must divide P.
    mapping: see `okd_jax.groups.map_peers.map_peers`.
  """

  net: nn.Module
  num_peers: int
  mesh: Mesh
  mapping: str = "auto"

  def __post_init__(self):
    _check(self.num_peers, self.mesh, self.mapping)

  def init(self, key, images):
    return _init_stacked(self.net, key, self.num_peers, images)

  def specs(self, variables):
    return jax.tree.map(lambda _: P(PEER), variables)

  def apply(self, variables, images, key, *, train):
    views = images.ndim == 5
    forward = map_peers(
      _with_outputs(_apply_network(self.net, train)),
      self.mapping,
      (0, 0 if views else None, 0),
    )

    def local(variables, images, key):
      count = self.num_peers // lax.axis_size(PEER)
      return forward(variables, images, _peer_keys(key, count))

    outputs, statistics = jax.shard_map(
      local,
      mesh=self.mesh,
      in_specs=(P(PEER), P(PEER, DATA) if views else P(DATA), P()),
      out_specs=(P(PEER, DATA), P(PEER)),
    )(variables, images, key)
    return outputs, statistics if train else _without_params(variables)

  def extract(self, variables, peer):
    index = range(self.num_peers)[peer]
    return self.net, jax.tree.map(lambda leaf: leaf[index], variables)


@dataclasses.dataclass(frozen=True)
class Branches(Peers):
  """Branch-based group: one shared trunk, a tail of its own for every peer.

  Variables hold `trunk` and `tails` in every collection; the tails' have a
  leading peer axis.

  Attributes:
    net: a linen module with a field `part`, see `backbones.network.Network`.
    num_peers: P.
    mesh: its peer axis must divide P.
    mapping: see `okd_jax.groups.map_peers.map_peers`.
    mean_trunk_gradient: average the tails' gradients where they enter the
      trunk, instead of summing them.
  """

  net: nn.Module
  num_peers: int
  mesh: Mesh
  mapping: str = "auto"
  mean_trunk_gradient: bool = False

  def __post_init__(self):
    _check(self.num_peers, self.mesh, self.mapping)
    if "part" not in {field.name for field in dataclasses.fields(self.net)}:
      raise ConfigError(
        f"{type(self.net).__name__} has no field 'part' and so cannot be split "
        "into trunk and tail; set config.peers.kind='replicas', or give the "
        "network the field (see okd_jax.backbones.network.Network)."
      )

  def init(self, key, images):
    trunk_key, tails_key = jax.random.split(key)
    trunk_net = self.net.clone(part="trunk")
    trunk = jax.jit(functools.partial(trunk_net.init, train=False))(
      trunk_key, images
    )
    hidden = jax.eval_shape(
      functools.partial(trunk_net.apply, train=False), trunk, images
    )
    tails = _init_stacked(
      self.net.clone(part="tail"),
      tails_key,
      self.num_peers,
      jnp.zeros(hidden.shape, hidden.dtype),
    )
    return _join(trunk, tails)

  def specs(self, variables):
    trunk, tails = _separate(variables)
    return _join(
      jax.tree.map(lambda _: P(), trunk),
      jax.tree.map(lambda _: P(PEER), tails),
    )

  def apply(self, variables, images, key, *, train):
    views = images.ndim == 5
    through_trunk = _apply_network(self.net.clone(part="trunk"), train)
    through_tails = map_peers(
      _with_outputs(_apply_network(self.net.clone(part="tail"), train)),
      self.mapping,
      (0, 0 if views else None, 0),
    )

    def local(trunk, tails, images, key):
      count = self.num_peers // lax.axis_size(PEER)
      keys = _peer_keys(key, count)
      # Each device sums its own peers' gradients of the trunk's parameters, so
      # that parameters, not activations, are summed over devices.
      trunk = jax.tree.map(lambda v: lax.pcast(v, PEER, to="varying"), trunk)
      if views:
        # Folding in P, beyond every peer index, keeps the masks apart.
        trunk_keys = jax.vmap(jax.random.fold_in, (0, None))(
          keys, self.num_peers
        )
        hidden, after = map_peers(through_trunk, self.mapping, (None, 0, 0))(
          trunk, images, trunk_keys
        )
        after = _in_peer_order(trunk, after, self.num_peers)
      else:
        trunk_key = jax.random.fold_in(key, self.num_peers)
        hidden, after = through_trunk(trunk, images, trunk_key)
        after = jax.tree.map(lambda v: lax.pmean(v, PEER), after)
      pooled = layers.at_least_float32(
        jnp.mean(hidden, (-3, -2)) if hidden.ndim > 3 else hidden
      )
      if not views:
        pooled = lax.pmean(pooled, PEER)
      if self.mean_trunk_gradient:
        hidden = losses.scale_gradient(hidden, 1 / self.num_peers)
      outputs, statistics = through_tails(tails, hidden, keys)
      return outputs, pooled, after, statistics

    trunk, tails = _separate(variables)
    outputs, pooled, trunk_after, tails_after = jax.shard_map(
      local,
      mesh=self.mesh,
      in_specs=(P(), P(PEER), P(PEER, DATA) if views else P(DATA), P()),
      out_specs=(
        P(PEER, DATA),
        P(PEER, DATA) if views else P(DATA),
        P(),
        P(PEER),
      ),
    )(trunk, tails, images, key)
    outputs = dataclasses.replace(outputs, trunk=pooled)
    if not train:
      return outputs, _without_params(variables)
    return outputs, _join(trunk_after, tails_after)

  def extract(self, variables, peer):
    index = range(self.num_peers)[peer]
    trunk, tails = _separate(variables)
    tail = jax.tree.map(lambda leaf: leaf[index], tails)
    return self.net, {
      name: {**trunk.get(name, {}), **tail.get(name, {})}
      for name in {**trunk, **tail}
    }


def _with_outputs(fn: Callable[..., Any]) -> Callable[..., Any]:
  def wrapped(variables, images, key):
    result, statistics = fn(variables, images, key)
    return as_outputs(result), statistics

  return wrapped


def _in_peer_order(before: Variables, after: Variables, num_peers: int) -> Any:
  """Running statistics after one update for each view, in peer order.

  Every view's pass started from the same statistics r and ended with
  m r + (1 - m) s_j, where m is the momentum; one after another they give
  m^P r + sum_j m^(P-1-j) (1 - m) s_j.
  """
  momentum = layers.MOMENTUM

  def combine(old, new):
    index = lax.axis_index(PEER) * len(new) + jnp.arange(len(new))
    weight = (momentum ** (num_peers - 1 - index)).astype(new.dtype)
    own = jnp.tensordot(weight, new - momentum * old, 1)
    total = lax.psum(own, PEER)
    return momentum**num_peers * lax.pmean(old, PEER) + total

  return jax.tree.map(combine, _only(before, after), after)


def _only(variables: Variables, like: Variables) -> Variables:
  return {name: variables[name] for name in like}


def _without_params(variables: Variables) -> Variables:
  return {name: tree for name, tree in variables.items() if name != "params"}


def _join(trunk: Variables, tails: Variables) -> Variables:
  return {
    name: {"trunk": trunk.get(name, {}), "tails": tails.get(name, {})}
    for name in {**trunk, **tails}
  }


def _separate(variables: Variables) -> tuple[Variables, Variables]:
  trunk = {name: tree["trunk"] for name, tree in variables.items()}
  tails = {name: tree["tails"] for name, tree in variables.items()}
  return trunk, tails
