"""Groups of peers: one class for networks and branches, equal or not.

    group = groups.replicas(net, 4, mesh)
    variables = group.init(key, images[:1])
    outputs, state = group.apply(variables, images, key, train=True)

`replicas`, `branches`, `mixed` and `different_branches` build a `Group`; see
there for what else a group can contain.
"""

from okd_jax.groups.check import check as check
from okd_jax.groups.errors import GroupError as GroupError
from okd_jax.groups.forward import as_outputs as as_outputs
from okd_jax.groups.group import Group as Group
from okd_jax.groups.kinds import (
  branches as branches,
  different_branches as different_branches,
  mixed as mixed,
  replicas as replicas,
)
from okd_jax.groups.layout import Stack as Stack
from okd_jax.groups.map_peers import MAPPINGS as MAPPINGS
