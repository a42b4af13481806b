"""The device mesh, with the axes `data` for the batch and `peer` for peers."""

from collections.abc import Sequence
import functools
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from okd_jax.errors import ConfigError

DATA = "data"
PEER = "peer"


def make_mesh(
  data: int = -1,
  peer: int = 1,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """Arranges devices as `data` x `peer`.

  Args:
    data: size of the data axis; -1 stands for the number of devices, divided by
      `peer`.
    peer: size of the peer axis. It must divide the number of peers.
    devices: devices to choose from; all by default. The first `data * peer` are
      used.

  Returns:
    A mesh whose axes have the type `AxisType.Auto`: outside `shard_map` the
    compiler partitions the computation.

  Raises:
    ConfigError: if the sizes do not fit the devices.
  """
  available = list(jax.devices() if devices is None else devices)
  if peer < 1 or (data < 1 and data != -1):
    raise ConfigError(
      f"config.mesh.data={data} and config.mesh.peer={peer} must be positive; "
      "data=-1 takes all devices that are left."
    )
  if data == -1:
    if len(available) % peer:
      raise ConfigError(
        f"config.mesh.peer={peer} must divide the number of devices, "
        f"{len(available)}; choose another, or set config.mesh.data too."
      )
    data = len(available) // peer
  if data * peer > len(available):
    raise ConfigError(
      f"config.mesh.data={data} times config.mesh.peer={peer} is more than "
      f"the {len(available)} device(s) here; lower one of them."
    )
  grid = np.asarray(available[: data * peer]).reshape(data, peer)
  return Mesh(grid, (DATA, PEER), axis_types=(AxisType.Auto,) * 2)


def without_peer_axis(mesh: Mesh) -> Mesh:
  """The same devices, all on the data axis: the mesh of a single network."""
  return Mesh(
    mesh.devices.reshape(-1, 1), mesh.axis_names, axis_types=mesh.axis_types
  )


def on_cpu(mesh: Mesh) -> bool:
  """Whether its devices are CPUs."""
  platform: str = mesh.devices.flat[0].platform
  return platform == "cpu"


def sharding(mesh: Mesh, *axes: str) -> NamedSharding:
  """Splits the leading axes of an array over mesh axes, and no others."""
  return NamedSharding(mesh, PartitionSpec(*axes))


def shardings(mesh: Mesh, specs: Any) -> Any:
  """Turns a tree of partition specs into a tree of shardings."""
  return jax.tree.map(
    lambda spec: NamedSharding(mesh, spec),
    specs,
    is_leaf=lambda leaf: isinstance(leaf, PartitionSpec),
  )


def to_host(tree: Any) -> Any:
  """Copies arrays to the host, also those that are split over processes.

  If another process holds a part of an array, this is a collective: all
  processes must call it, in their main thread.

  Args:
    tree: tree of arrays and numbers.

  Returns:
    The tree with NumPy arrays in place of device arrays.
  """
  leaves, structure = jax.tree.flatten(tree)
  shared: dict[Any, list[int]] = {}  # by mesh
  for i, leaf in enumerate(leaves):
    if isinstance(leaf, jax.Array) and not (
      leaf.is_fully_addressable or leaf.is_fully_replicated
    ):
      assert isinstance(leaf.sharding, NamedSharding), leaf.sharding
      shared.setdefault(leaf.sharding.mesh, []).append(i)
  for mesh, places in shared.items():
    whole = _collector(mesh)([leaves[i] for i in places])
    for i, leaf in zip(places, whole, strict=True):
      leaves[i] = leaf
  return jax.device_get(jax.tree.unflatten(structure, leaves))


@functools.cache
def _collector(mesh: Mesh) -> Any:
  """A program that replicates arrays; cached, as each batch needs it."""
  return jax.jit(lambda arrays: arrays, out_shardings=sharding(mesh))


def place(tree: Any, sharding: Any) -> Any:
  """Copies a tree of host values to devices.

  Args:
    tree: arrays, random keys and numbers; every process has the same values.
    sharding: tree of shardings with the same structure, or a single sharding
      for a tree that is one value.

  Returns:
    The tree with global `jax.Array`.
  """

  def put(value: Any, where: NamedSharding) -> jax.Array:
    dtype = getattr(value, "dtype", None)  # a number has none
    if dtype and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
      bits = put(jax.random.key_data(value), where)
      return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(value))
    host = np.array(value)  # a copy: two leaves may share a buffer
    return jax.make_array_from_callback(
      host.shape, where, lambda index: host[index]
    )

  return jax.tree.map(put, tree, sharding)
