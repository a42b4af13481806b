"""The kinds of groups, by name."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from flax import linen as nn
from jax.sharding import Mesh

from okd_jax import trees
from okd_jax.groups import once
from okd_jax.groups.errors import check_network, GroupError
from okd_jax.groups.group import Group
from okd_jax.groups.layout import Stack


def replicas(
  net: nn.Module, num_peers: int, mesh: Mesh, mapping: str = "auto"
) -> Group:
  """Network-based group: complete networks of one shape that share nothing."""
  return Group((Stack(net, num_peers),), mesh, mapping=mapping)


def mixed(
  nets: Sequence[nn.Module | Stack], mesh: Mesh, mapping: str = "auto"
) -> Group:
  """Group of different networks; equal ones may be given as a `Stack`."""
  stacks = [net if isinstance(net, Stack) else Stack(net) for net in nets]
  return Group(tuple(stacks), mesh, mapping=mapping)


def branches(
  net: nn.Module,
  num_peers: int,
  mesh: Mesh,
  mapping: str = "auto",
  trunk_gradient: str = "sum",
) -> Group:
  """Branch-based group: one shared trunk, a tail of its own for every peer.

  Args:
    net: a linen module with a field `part`: "whole", or one of its two parts,
      "trunk" and "tail", which together have the variables of the whole.
    num_peers: number P of peers.
    mesh: the devices; the peer axis must divide P.
    mapping: as in `Group`.
    trunk_gradient: as in `Group`.
  """
  trunk = _part(net, "trunk")
  tails = (Stack(_part(net, "tail"), num_peers, net),)
  return Group(tails, mesh, trunk, mapping, trunk_gradient)


def different_branches(
  nets: Sequence[nn.Module],
  mesh: Mesh,
  mapping: str = "auto",
  trunk_gradient: str = "sum",
  example: Any = None,
) -> Group:
  """Branches of different width or depth on one trunk.

  Args:
    nets: networks as in `branches`, one per peer; all share the trunk of the
      first, whose result enters the tails of all.
    mesh: the devices; the peer axis must be 1.
    mapping: as in `Group`.
    trunk_gradient: as in `Group`.
    example: images or their shape. If it is given, all trunks must have the
      same shape, so that the trunk and each tail form a whole network.

  Raises:
    GroupError: if a trunk has another shape than the first one.
  """
  trunks = [_part(net, "trunk") for net in nets]
  if example is not None:
    _check_alike(nets, trunks, example)
  tails = tuple(
    Stack(
      _part(net, "tail"),
      1,
      net if example is not None or trunk == trunks[0] else None,
    )
    for net, trunk in zip(nets, trunks, strict=True)
  )
  return Group(tails, mesh, trunks[0], mapping, trunk_gradient)


def _check_alike(
  nets: Sequence[nn.Module], trunks: Sequence[nn.Module], example: Any
) -> None:
  def shapes(trunk):
    hidden, variables = once.shapes(trunk, example)
    leaves = trees.named({"output": hidden, **variables})
    return {name: leaf.shape for name, leaf in leaves}

  first, absent = shapes(trunks[0]), "missing"
  for number, trunk in enumerate(trunks):
    found = shapes(trunk)
    names = first.keys() | found.keys()
    for name in sorted(n for n in names if first.get(n) != found.get(n)):
      raise GroupError(
        f"config.peers.net: the shape of '{name}' is "
        f"{found.get(name, absent)} in the trunk of peer {number}, a "
        f"{type(nets[number]).__name__}, and {first.get(name, absent)} in that "
        "of peer 0, which is to be shared; name networks with the same trunk, "
        "or share less of them with config.peers.split."
      )


def _part(net: nn.Module, part: str) -> nn.Module:
  check_network(net)
  if "part" not in {field.name for field in dataclasses.fields(net)}:
    raise GroupError(
      f"{type(net).__name__} has no field 'part' and so cannot be split into "
      "trunk and tail; set config.peers.kind='replicas', or give the network "
      "the field (see okd_jax.backbones.network.Network)."
    )
  return net.clone(part=part)
