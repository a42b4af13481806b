"""The leaves of a state as checkpoints see them: by path, with their types."""

from collections.abc import Sequence
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from okd_jax import trees
from okd_jax.storage.manifest import Leaf

# Path and value of a leaf.
Named = tuple[str, Any]


def named(tree: Any) -> list[Named]:
  """Leaves of any pytree by path, as `params/stem/kernel`, in tree order."""
  leaves = trees.named(tree)
  assert len(dict(leaves)) == len(leaves), "two leaves share a path"
  return leaves


def describe(leaves: Sequence[Named]) -> tuple[Leaf, ...]:
  """Path, shape and dtype of leaves, concrete or abstract.

  Args:
    leaves: arrays, `jax.ShapeDtypeStruct` and Python numbers by path.

  Returns:
    One entry per leaf; Python numbers have the dtype that jax gives them.

  Raises:
    ValueError: for a random key, whose bits depend on its implementation.
  """
  described = []
  for path, leaf in leaves:
    dtype = _dtype(leaf)
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
      raise ValueError(
        f"{path} is a random key ({dtype}); a checkpoint holds numbers: save "
        "jax.random.key_data of it."
      )
    described.append((path, tuple(np.shape(leaf)), str(dtype)))
  return tuple(described)


def copy(leaves: Sequence[Named]) -> list[Named]:
  """Copies leaves, jax arrays on their devices, so that they may be donated.

  Args:
    leaves: arrays and Python numbers by path.

  Returns:
    The same values in separate memory; numbers as NumPy arrays.
  """
  copies = []
  groups: dict[frozenset[Any], list[int]] = {}
  for i, (path, leaf) in enumerate(leaves):
    if isinstance(leaf, jax.Array):
      groups.setdefault(frozenset(leaf.sharding.device_set), []).append(i)
    else:
      leaf = np.array(leaf, _dtype(leaf))
    copies.append((path, leaf))
  # One program a set of devices: a copy a leaf would compile every shape.
  for members in groups.values():
    arrays = _copy_arrays([leaves[i][1] for i in members])
    for i, array in zip(members, arrays, strict=True):
      copies[i] = (leaves[i][0], array)
  return copies


@jax.jit
def _copy_arrays(arrays: list[jax.Array]) -> list[jax.Array]:
  return [jnp.copy(array) for array in arrays]


def pack(leaves: Sequence[Named]) -> tuple[dict[str, Any], tuple[str, ...]]:
  """Joins leaves into one array of bytes.

  Orbax takes two milliseconds for each array, however small, and a group has a
  thousand of them.

  Args:
    leaves: concrete arrays by path.

  Returns:
    The tree that Orbax saves, and the paths of the leaves that are stored
    separately because no process holds all of their values.
  """
  apart = {path: leaf for path, leaf in leaves if not _is_here(leaf)}
  here = [
    np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
    for path, leaf in leaves
    if path not in apart
  ]
  tree: dict[str, Any] = {"packed": np.concatenate(here or [np.zeros(1, "u1")])}
  return tree | ({"apart": apart} if apart else {}), tuple(apart)


def plan(
  leaves: Sequence[Named], apart: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The arguments for Orbax to restore what `pack` returned.

  Args:
    leaves: abstract leaves by path, with the shardings to restore onto.
    apart: paths of the separate leaves, as `pack` returned them.

  Returns:
    The abstract tree and the arguments to restore it with.
  """
  sizes = [
    math.prod(shape) * jnp.dtype(dtype).itemsize
    for path, shape, dtype in describe(leaves)
    if path not in apart
  ]
  item: dict[str, Any] = {"packed": np.zeros(sum(sizes) or 1, np.uint8)}
  args: dict[str, Any] = {"packed": ocp.RestoreArgs(restore_type=np.ndarray)}
  if apart:
    wanted = dict(leaves)
    item["apart"] = {
      path: jax.ShapeDtypeStruct(np.shape(wanted[path]), _dtype(wanted[path]))
      for path in apart
    }
    args["apart"] = {
      path: ocp.ArrayRestoreArgs(
        restore_type=jax.Array,
        sharding=_sharding(wanted[path]),
        global_shape=np.shape(wanted[path]),
        dtype=_dtype(wanted[path]),
      )
      for path in apart
    }
  return item, args


def unpack(tree: dict[str, Any], leaves: Sequence[Named]) -> list[Any]:
  """Splits the tree that Orbax restored into leaves.

  Args:
    tree: a tree of the structure that `pack` returned.
    leaves: abstract leaves by path. A `jax.ShapeDtypeStruct` is placed by its
      sharding, or on the first device if it has none; NumPy arrays and Python
      numbers are restored as such.

  Returns:
    The leaves in the same order.
  """
  values, start = [], 0
  for path, leaf in leaves:
    if path in tree.get("apart", {}):
      values.append(_as(leaf, tree["apart"][path]))
      continue
    dtype = jnp.dtype(_dtype(leaf))
    end = start + math.prod(np.shape(leaf)) * dtype.itemsize
    flat = tree["packed"][start:end].copy().view(dtype)
    values.append(_as(leaf, flat.reshape(np.shape(leaf))))
    start = end
  return values


def _is_here(leaf: Any) -> bool:
  """Whether this process holds all values of the leaf."""
  return (
    not isinstance(leaf, jax.Array)
    or leaf.is_fully_addressable
    or leaf.is_fully_replicated
  )


def _as(leaf: Any, value: Any) -> Any:
  if isinstance(leaf, bool | int | float):
    return type(leaf)(value)
  if not isinstance(leaf, jax.ShapeDtypeStruct | jax.Array):
    return np.asarray(value)
  if isinstance(value, jax.Array):
    return value
  sharding = _sharding(leaf)
  if sharding.is_fully_addressable:
    # Of its own memory: the first step donates it.
    return jax.device_put(value, sharding, may_alias=False)
  return jax.make_array_from_callback(value.shape, sharding, value.__getitem__)


def _sharding(leaf: Any) -> jax.sharding.Sharding:
  sharding = getattr(leaf, "sharding", None)
  if sharding is None:
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return sharding


def _dtype(leaf: Any) -> Any:
  return leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
