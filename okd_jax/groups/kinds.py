"""The kinds of groups, by name."""

from collections.abc import Sequence
import dataclasses

from flax import linen as nn
from jax.sharding import Mesh

from okd_jax.groups.errors import GroupError
from okd_jax.groups.group import Group
from okd_jax.groups.layout import Stack


def replicas(
  net: nn.Module, num_peers: int, mesh: Mesh, mapping: str = "auto"
) -> Group:
  """Network-based group: complete networks of one shape, nothing shared."""
  return Group((Stack(net, num_peers),), mesh, mapping=mapping)


def mixed(
  nets: Sequence[nn.Module | Stack], mesh: Mesh, mapping: str = "auto"
) -> Group:
  """Different networks; equal ones may come as a `Stack`."""
  stacks = [net if isinstance(net, Stack) else Stack(net) for net in nets]
  return Group(tuple(stacks), mesh, mapping=mapping)


def branches(
  net: nn.Module,
  num_peers: int,
  mesh: Mesh,
  mapping: str = "auto",
  mean_trunk_gradient: bool = False,
) -> Group:
  """Branch-based group: one shared trunk, a tail of its own for every peer.

  Args:
    net: a linen module with a field `part`: "whole", or one of its two parts,
      "trunk" and "tail", which together have the variables of the whole.
    num_peers: P.
    mesh: its peer axis must divide P.
    mapping: as in `Group`.
    mean_trunk_gradient: as in `Group`.
  """
  trunk = part_of(net, "trunk")
  tails = (Stack(part_of(net, "tail"), num_peers, net),)
  return Group(tails, mesh, trunk, mapping, mean_trunk_gradient)


def different_branches(
  nets: Sequence[nn.Module],
  mesh: Mesh,
  mapping: str = "auto",
  mean_trunk_gradient: bool = False,
) -> Group:
  """Branches of different width or depth on one trunk.

  Args:
    nets: as in `branches`, one a peer; the first one's trunk is shared, and its
      result enters the tails of all.
    mesh: its peer axis must be 1.
    mapping: as in `Group`.
    mean_trunk_gradient: as in `Group`.
  """
  trunk = part_of(nets[0], "trunk")
  tails = tuple(
    Stack(
      part_of(net, "tail"), 1, net if part_of(net, "trunk") == trunk else None
    )
    for net in nets
  )
  return Group(tails, mesh, trunk, mapping, mean_trunk_gradient)


def part_of(net: nn.Module, part: str) -> nn.Module:
  """The trunk or the tail of a network.

  Raises:
    GroupError: if it has none.
  """
  if "part" not in {field.name for field in dataclasses.fields(net)}:
    raise GroupError(
      f"{type(net).__name__} has no field 'part' and so cannot be split into "
      "trunk and tail; set config.peers.kind='replicas', or give the network "
      "the field (see okd_jax.core.Network)."
    )
  return net.clone(part=part)
