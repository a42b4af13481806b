"""A group of peers: stacks of equal networks, with or without a common stem.

The peers' forward pass runs in `shard_map` over both mesh axes; everything
after it is plain global code. This is because vmapped convolutions are grouped
convolutions, whose gradients the automatic partitioner handles badly, while
inside `shard_map` a device sees only its own peers and its own part of the
batch.
"""

import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec as P
import numpy as np

from okd_jax.batch import has_views
from okd_jax.core import Array, Outputs, Variables
from okd_jax.devices.mesh import DATA, make_mesh, PEER
from okd_jax.groups import layout, local, once
from okd_jax.groups.errors import (
  check_batch,
  check_call,
  check_counts,
  check_sizes,
  check_variables,
  GroupError,
)
from okd_jax.groups.forward import join_outputs
from okd_jax.groups.layout import Stack

_TRUNK_GRADIENTS = ("sum", "mean", "first")


@dataclasses.dataclass(frozen=True)
class Group:
  """Networks that process the same batches.

  Attributes:
    stacks: sets of equal networks; a single stack may be spread over the peer
      axis of the mesh, several stacks may not.
    mesh: the devices.
    stem: the trunk that all peers share, a linen module whose result enters
      every network; None for separate networks.
    mapping: how equal networks are run, see `okd_jax.groups.map_peers`.
    trunk_gradient: which gradient of the peers enters the stem: the "sum" of
      theirs, their "mean", or that of the "first" peer.
  """

  stacks: tuple[Stack, ...]
  mesh: Mesh
  stem: nn.Module | None = None
  mapping: str = "auto"
  trunk_gradient: str = "sum"

  def __post_init__(self):
    check_sizes(self.stacks, self.mesh, self.mapping)
    if self.trunk_gradient not in _TRUNK_GRADIENTS:
      raise GroupError(
        f"trunk_gradient='{self.trunk_gradient}' must be one of "
        f"{_TRUNK_GRADIENTS}; change Needs.trunk_gradient of the method."
      )
    for net in self.networks:
      check_call(net)

  @property
  def num_peers(self) -> int:
    """Number P of peers."""
    return sum(stack.count for stack in self.stacks)

  @property
  def networks(self) -> tuple[nn.Module, ...]:
    """The different modules that run: the stem, and one for each stack."""
    stem = () if self.stem is None else (self.stem,)
    return (*stem, *(stack.net for stack in self.stacks))

  @property
  def equal(self) -> bool:
    """Whether all peers have the same shape."""
    return len(self.stacks) == 1

  @property
  def shared(self) -> tuple[str, ...]:
    """Path prefixes of the variables that have no peer axis."""
    return () if self.stem is None else ("trunk/",)

  def init(self, key: Array, images: Array) -> Variables:
    """Draws independent variables for every peer.

    Args:
      key: random key.
      images: float [1, H, W, c]; only their shape matters.
    """
    if self.stem is None:
      return layout.join(None, self._init_stacks(key, images))
    stem_key, tails_key = jax.random.split(key)
    stem = once.init(self.stem)(stem_key, images)
    hidden = once.shapes(self.stem, images)[0]
    blank = jax.tree.map(lambda h: jnp.zeros(h.shape, h.dtype), hidden)
    return layout.join(stem, self._init_stacks(tails_key, blank))

  def shapes(self, images: Any) -> Variables:
    """The shapes of what `init` draws, by images or their shape."""
    shapes: Variables = jax.eval_shape(self.init, jax.random.key(0), images)
    return shapes

  def specs(self, variables: Variables) -> Variables:
    """Returns the partition spec of every variable."""
    return jax.tree.map(
      lambda peers: P(PEER) if peers else P(), self.owners(variables)
    )

  def owners(self, variables: Variables) -> Variables:
    """For every variable the peers along its first axis, as a range.

    The range is empty for variables that all peers share, without a peer axis.
    """
    stem, stacks = self._separate(variables)
    first, each = 0, []
    for stack, own in zip(self.stacks, stacks, strict=True):
      peers = range(first, first + stack.count)
      each.append(jax.tree.map(lambda _, peers=peers: peers, own))
      first += stack.count
    return layout.join(jax.tree.map(lambda _: range(0), stem), each)

  def apply(
    self, variables: Variables, images: Array, key: Array, *, train: bool
  ) -> tuple[Outputs, Variables]:
    """Passes a batch through every peer.

    Args:
      variables: the variables, as from `init`.
      images: float [B, H, W, c], or one view per peer [P, B, H, W, c].
      key: random key for dropout.
      train: whether batch norm uses the statistics of the whole batch and
        dropout is on; otherwise batch norm uses running statistics.

    Returns:
      The outputs, and the collections other than `params` as they are after
      the pass (unchanged unless `train`).

    Raises:
      GroupError: if a network keeps state that would differ between devices of
        this mesh, if the examples cannot be divided among them, or if the
        variables are of another number of peers.
    """
    check_batch(images, self.mesh)
    batch = P(PEER, DATA) if has_views(images) else P(DATA)
    stem, stacks = self._separate(variables)
    check_counts(self.stacks, stacks)
    results, pooled, stem_after, after = jax.shard_map(
      functools.partial(self._on_this_device, train),
      mesh=self.mesh,
      in_specs=(P(), P(PEER), batch, P()),
      out_specs=(P(PEER, DATA), batch, P(), P(PEER)),
    )(stem, stacks, images, key)
    outputs = join_outputs(results)
    if self.stem is not None:
      outputs = dataclasses.replace(outputs, trunk=pooled)
    if not train:
      return outputs, layout.without_params(variables)
    return outputs, layout.join(stem_after, after)

  def extract(
    self, variables: Variables, peer: int
  ) -> tuple[nn.Module, Variables]:
    """Takes one peer out, as a whole network with its own variables."""
    number, index = self._place(peer)
    stem, stacks = self._separate(variables)
    own = jax.tree.map(lambda leaf: leaf[index], stacks[number])
    return layout.whole(self.stem, self.stacks[number], stem, own)

  def insert(
    self, variables: Variables, peer: int, network: Variables
  ) -> Variables:
    """The inverse of `extract`, for arrays on the host.

    Args:
      variables: variables of the group.
      peer: the peer whose place the network takes.
      network: variables as from `extract`; those of a shared stem replace the
        group's.
    """
    number, index = self._place(peer)
    stem, stacks = self._separate(variables)
    stack, own = self.stacks[number], stacks[number]
    if stem is not None:
      stem, network = layout.parts_of_whole(stack, network, stem, own)
    network = {name: network.get(name, {}) for name in own}

    def put(leaf, new):
      changed = np.array(leaf)
      changed[index] = new
      return changed

    changed = jax.tree.map(put, own, network)
    return layout.join(stem, (*stacks[:number], changed, *stacks[number + 1 :]))

  def on_one_device(self, device: jax.Device) -> "Group":
    """The part of the group that one device of the mesh holds."""
    share = self.mesh.shape[PEER]
    return dataclasses.replace(
      self,
      stacks=tuple(
        dataclasses.replace(stack, count=stack.count // share)
        for stack in self.stacks
      ),
      mesh=make_mesh(1, 1, [device]),
    )

  def _on_this_device(self, train, stem, stacks, images, key):
    viewed, pooled, stem_after = has_views(images), None, None
    if not viewed:
      # Else a gradient by the images that a network takes in its forward pass
      # would be summed over the devices of other peers.
      images = jax.lax.pcast(images, PEER, to="varying")
    if self.stem is not None:
      images, pooled, stem_after = local.through_stem(
        self.stem,
        stem,
        images,
        key,
        num_peers=self.num_peers,
        mapping=self.mapping,
        mean_gradient=self.trunk_gradient == "mean",
        train=train,
      )
    results, after = local.through_stacks(
      self.stacks,
      stacks,
      images,
      key,
      mapping=self.mapping,
      viewed=viewed,
      only_first=self.trunk_gradient == "first",
      train=train,
    )
    return results, pooled, stem_after, after

  def _separate(self, variables):
    return layout.separate(
      variables, len(self.stacks), stem=self.stem is not None
    )

  def _place(self, peer: int) -> tuple[int, int]:
    """The stack that contains a peer, and its place in that stack."""
    index = range(self.num_peers)[peer]
    for number, stack in enumerate(self.stacks):
      if index < stack.count:
        return number, index
      index -= stack.count
    raise AssertionError("the index is below the sum of the stacks' sizes")

  def _init_stacks(self, key: Array, example: Any) -> list[Variables]:
    if self.equal:
      return [_init_stack(self.stacks[0], key, example)]
    return [
      _init_stack(stack, jax.random.fold_in(key, i), example)
      for i, stack in enumerate(self.stacks)
    ]


def _init_stack(stack: Stack, key: Array, example: Any) -> Variables:
  """Compiles the initialisation of one network and runs it for every peer."""
  each = [
    once.init(stack.net)(jax.random.fold_in(key, i), example)
    for i in range(stack.count)
  ]
  check_variables(stack.net, each)
  return _stack(each)


@jax.jit
def _stack(each: list[Variables]) -> Variables:
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
