"""Groups of different networks."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec as P

from okd_jax.core import Outputs, Variables
from okd_jax.devices.mesh import PEER
from okd_jax.errors import ConfigError
from okd_jax.groups.group import Peers, Replicas


@dataclasses.dataclass(frozen=True)
class Mixed(Peers):
  """A group of different networks: several `Replicas` one after another.

  Logits are joined on the peer axis; features and maps become tuples. Peers of
  different shape cannot be spread over devices: the peer axis must be 1.
  """

  groups: tuple[Replicas, ...]
  num_peers: int = dataclasses.field(init=False)
  mesh: Mesh = dataclasses.field(init=False)

  def __post_init__(self):
    # The dataclass is frozen, and these follow from the groups.
    total = sum(group.num_peers for group in self.groups)
    object.__setattr__(self, "num_peers", total)
    object.__setattr__(self, "mesh", self.groups[0].mesh)
    if self.mesh.shape[PEER] != 1:
      raise ConfigError(
        f"config.mesh.peer={self.mesh.shape[PEER]} must be 1 for a group of "
        "different networks."
      )

  def init(self, key, images):
    each = [
      group.init(jax.random.fold_in(key, i), images)
      for i, group in enumerate(self.groups)
    ]
    return _by_group(each)

  def specs(self, variables):
    return jax.tree.map(lambda _: P(), variables)

  def apply(self, variables, images, key, *, train):
    outputs, after, start = [], [], 0
    for i, group in enumerate(self.groups):
      seen = (
        images[start : start + group.num_peers] if images.ndim == 5 else images
      )
      start += group.num_peers
      result, statistics = group.apply(
        _of_group(variables, i), seen, jax.random.fold_in(key, i), train=train
      )
      outputs.append(result)
      after.append(statistics)
    # Stages are aligned at the deepest one.
    depth = min(len(result.maps) for result in outputs)
    joined = Outputs(
      logits=jnp.concatenate([result.logits for result in outputs]),
      features=tuple(f for result in outputs for f in result.features),
      maps=tuple(
        tuple(m for result in outputs for m in result.maps[stage - depth])
        for stage in range(depth)
      ),
    )
    return joined, _by_group(after)

  def extract(self, variables, peer):
    index = range(self.num_peers)[peer]
    for i, group in enumerate(self.groups):
      if index < group.num_peers:
        return group.extract(_of_group(variables, i), index)
      index -= group.num_peers
    raise AssertionError("the index is below the sum of the groups' sizes")


def _by_group(each: list[Variables]) -> Variables:
  names = {name: None for variables in each for name in variables}
  return {
    name: {f"group_{i}": v.get(name, {}) for i, v in enumerate(each)}
    for name in names
  }


def _of_group(variables: Variables, i: int) -> Variables:
  return {name: tree[f"group_{i}"] for name, tree in variables.items()}
