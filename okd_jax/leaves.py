"""The leaves of a state as checkpoints see them: by path, with their types."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from okd_jax.manifest import Leaf

# Path and value of a leaf.
Named = tuple[str, Any]


def named(tree: Any) -> list[Named]:
  """Leaves of any pytree by path, `params/stem/kernel`, in tree order."""
  leaves = [
    (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  ]
  assert len(dict(leaves)) == len(leaves), "two leaves share a path"
  return leaves


def describe(leaves: Sequence[Named]) -> tuple[Leaf, ...]:
  """Path, shape and dtype of leaves, concrete or abstract.

  Args:
    leaves: arrays, `jax.ShapeDtypeStruct` and Python numbers by path.

  Returns:
    One entry a leaf; Python numbers count as jax types them.

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
    The same with memory of their own; numbers as NumPy arrays.
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


def to_orbax(leaf: Any) -> tuple[Any, ocp.RestoreArgs]:
  """What Orbax is told to restore a leaf: its type, and where it goes.

  Args:
    leaf: `jax.ShapeDtypeStruct` or jax array, which without a sharding goes to
      the first device; NumPy array or Python number, restored on the host.

  Returns:
    The abstract value and the arguments to restore it with.
  """
  if not isinstance(leaf, jax.ShapeDtypeStruct | jax.Array):
    empty = np.zeros(np.shape(leaf), _dtype(leaf))
    return empty, ocp.RestoreArgs(restore_type=np.ndarray)
  sharding = leaf.sharding
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), ocp.ArrayRestoreArgs(
    restore_type=jax.Array,
    sharding=sharding,
    global_shape=leaf.shape,
    dtype=leaf.dtype,
  )


def from_orbax(leaf: Any, value: Any) -> Any:
  """The restored value as the leaf it replaces: Python numbers as such."""
  return type(leaf)(value) if isinstance(leaf, bool | int | float) else value


def _dtype(leaf: Any) -> Any:
  return leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
