"""PyTorch state dicts to our variables and back, by layer order and shape.

A state dict names its layers as its author pleased, so names are not compared:
the first convolution is matched with the first convolution, and so on for
linear and batch-norm layers. Our networks name their submodules in the order in
which they run; modules that name them otherwise need the same order within
each kind of layer.
"""

from collections.abc import Iterator, Mapping
import pathlib
import re
from typing import Any, NamedTuple

from flax import traverse_util
import jax.numpy as jnp
import numpy as np

from okd_jax.weights import torch_archive

Variables = dict[str, Any]
StateDict = dict[str, np.ndarray]

_KINDS = {4: "conv", 2: "linear", 1: "batch norm"}  # by rank of the weight
_KERNEL = {"weight": ("params", "kernel"), "bias": ("params", "bias")}
# Collection and name of our leaf for each entry of a PyTorch layer.
_LEAVES = {
  "conv": _KERNEL,
  "linear": _KERNEL,
  "batch norm": {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
  },
}
_STATISTICS = {"running_mean", "running_var"}


def load_torch(
  variables: Variables, state_dict: Mapping[str, np.ndarray]
) -> Variables:
  """Fills a network's variables from a PyTorch state dict.

  Layers are matched kind by kind in the order of the state dict. A state dict
  in alphabetical order (as from a .safetensors file, which keeps no other) is
  put into the natural order of its names first: "stem" first, then by number,
  then names without a number.

  Args:
    variables: collections of one network, without a peer axis: arrays or
      `jax.ShapeDtypeStruct`. They give structure, shapes and dtypes.
    state_dict: arrays by PyTorch's names. `num_batches_tracked` is ignored.

  Returns:
    New variables of the same structure. Each leaf has the wider of the two
    dtypes.

  Raises:
    ValueError: at the first layer that does not fit, with both names and
      shapes.
  """
  leaves = traverse_util.flatten_dict(variables)
  filled = dict(leaves)
  for leaf, name in _match(leaves, state_dict):
    value = _to_ours(leaf, state_dict[name])
    dtype = np.promote_types(value.dtype, leaves[leaf].dtype)
    filled[leaf] = jnp.asarray(value.astype(dtype))
  return traverse_util.unflatten_dict(filled)


def to_torch(
  variables: Variables, like: Mapping[str, np.ndarray] | None = None
) -> StateDict:
  """Writes a network's variables as a PyTorch state dict.

  Args:
    variables: collections of one network, without a peer axis.
    like: a state dict of the PyTorch network that is to load the result: gives
      names and their order, and the entries that we do not have
      (`num_batches_tracked`). None gives our own names with dots.

  Returns:
    NumPy arrays in PyTorch's layout.

  Raises:
    ValueError: at the first layer that does not fit `like`.
  """
  leaves = traverse_util.flatten_dict(variables)
  if like is None:
    return {
      f"{layer.name.replace('/', '.')}.{entry}": _to_theirs(leaf, leaves[leaf])
      for layer in _our_layers(leaves)
      for entry, leaf in layer.entries.items()
    }
  written = {name: np.asarray(value) for name, value in like.items()}
  for leaf, name in _match(leaves, like):
    written[name] = _to_theirs(leaf, leaves[leaf])
  return written


def read_state_dict(path: str | pathlib.Path) -> StateDict:
  """Reads a state dict from a file without running code from it.

  Args:
    path: a .safetensors file, or a .pth or .pt file as `torch.save` writes it
      since PyTorch 1.6. A checkpoint with an entry "state_dict" gives that.

  Returns:
    NumPy arrays by name, in the order of the file.

  Raises:
    ValueError: if the file is of another format or holds anything but tensors
      and plain containers.
  """
  path = pathlib.Path(path)
  if path.suffix == ".safetensors":
    # Not among the base dependencies.
    import safetensors.numpy

    try:
      return dict(safetensors.numpy.load_file(path))
    except safetensors.SafetensorError as error:
      raise ValueError(f"{path} cannot be read: {error}") from error
  loaded = torch_archive.read(path)
  if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
    loaded = loaded["state_dict"]
  if not isinstance(loaded, dict):
    raise ValueError(f"{path} holds a {type(loaded).__name__}, not a dict.")
  for name, value in loaded.items():
    if not isinstance(value, np.ndarray):
      raise ValueError(
        f"entry {name!r} of {path} is a {type(value).__name__}, not a tensor; "
        f"save the state dict alone."
      )
  return dict(loaded)


def forward_order(name: str) -> tuple:
  """Sort key of a layer's name, with "/" or "." between its parts.

  Per part: "stem" first; then by the first number in it, then naturally; then
  heads and parts without a number.
  """
  return tuple(_part_order(part) for part in re.split(r"[/.]", name))


def _part_order(part):
  numbers = [int(number) for number in re.findall(r"\d+", part)]
  # Text and numbers alternate, so keys compare like with like.
  natural = [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", part)]
  if part.startswith("stem"):
    return 0, 0, natural
  if part.startswith("head") or not numbers:
    return 2, 0, natural
  return 1, numbers[0], natural


class _Layer(NamedTuple):
  kind: str
  name: str
  # PyTorch's entry -> path of our leaf, or its full name in the state dict.
  entries: dict[str, Any]


def _our_layers(leaves) -> list[_Layer]:
  """Our layers in forward order."""
  found = []
  for collection, *path, last in leaves:
    if collection == "params" and last not in ("kernel", "scale", "bias"):
      raise ValueError(
        f"'{'/'.join((*path, last))}' belongs to no convolution, linear or "
        "normalisation layer, so it has no place in PyTorch's order of them; "
        "networks with such parameters are exported in other formats."
      )
    if collection != "params" or last not in ("kernel", "scale"):
      continue
    name = "/".join(path)
    rank = len(leaves[collection, *path, last].shape)
    kind = _KINDS.get(rank)
    if kind is None or (kind == "batch norm") != (last == "scale"):
      raise ValueError(
        f"'{name}/{last}' has {rank} axes, so it is no convolution, linear or "
        f"batch-norm layer of one network; take one peer out of a group first."
      )
    entries = {
      entry: (group, *path, leaf)
      for entry, (group, leaf) in _LEAVES[kind].items()
      if (group, *path, leaf) in leaves
    }
    found.append(_Layer(kind, name, entries))
  return sorted(found, key=lambda layer: forward_order(layer.name))


def _their_layers(state_dict) -> list[_Layer]:
  """Layers of a state dict, in its order unless that is alphabetical."""
  names = [n for n in state_dict if not n.endswith("num_batches_tracked")]
  prefixes = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
  if names == sorted(names):
    prefixes.sort(key=forward_order)
  entries: dict[str, dict[str, str]] = {prefix: {} for prefix in prefixes}
  for name in names:
    prefix, _, entry = name.rpartition(".")
    entries[prefix][entry] = name
  found = []
  for prefix in prefixes:
    weight = entries[prefix].get("weight")
    kind = weight and _KINDS.get(np.ndim(state_dict[weight]))
    if kind is None or not entries[prefix].keys() <= _LEAVES[kind].keys():
      shapes = {n: np.shape(state_dict[n]) for n in entries[prefix].values()}
      raise ValueError(
        f"layer '{prefix}' of the state dict is no convolution, linear or "
        f"batch-norm layer: {shapes}."
      )
    found.append(_Layer(kind, prefix, entries[prefix]))
  return found


def _match(leaves, state_dict) -> Iterator[tuple[tuple[str, ...], str]]:
  """Yields paths of our leaves with names in the state dict, shapes checked."""
  theirs = _their_layers(state_dict)
  for ours in _our_layers(leaves):
    other = next((each for each in theirs if each.kind == ours.kind), None)
    if other is None:
      raise ValueError(
        f"the state dict has no {ours.kind} layer left for '{ours.name}'; give "
        f"one of the same network."
      )
    theirs.remove(other)
    for entry, leaf in ours.entries.items():
      shape = _torch_shape(leaf, leaves[leaf].shape)
      name = other.entries.get(entry, "")
      theirs_shape = np.shape(state_dict[name]) if name else None
      if shape != theirs_shape:
        raise ValueError(
          f"'{'/'.join(leaf)}' of shape {tuple(leaves[leaf].shape)} needs "
          f"{shape} in PyTorch's layout, but '{other.name}.{entry}' of the "
          f"state dict is {theirs_shape or 'absent'}; give one of the same "
          f"network and number of classes."
        )
      yield leaf, name
    extra = other.entries.keys() - ours.entries.keys() - _STATISTICS
    if extra:
      raise ValueError(
        f"'{ours.name}' has no {sorted(extra)[0]}, but '{other.name}' of the "
        f"state dict has one; give one of the same network."
      )
  if theirs:
    raise ValueError(
      f"'{theirs[0].name}' of the state dict, a {theirs[0].kind} layer, is "
      f"left over; give one of the same network."
    )


def _to_ours(leaf, value):
  value = np.asarray(value)
  if leaf[-1] != "kernel":
    return value
  # OIHW to HWIO, or [out, in] to [in, out].
  return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def _to_theirs(leaf, value):
  value = np.asarray(value)
  if leaf[-1] != "kernel":
    return value
  theirs = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
  # safetensors writes the buffer as it lies, whatever the strides.
  return np.ascontiguousarray(theirs)


def _torch_shape(leaf, shape):
  return _to_theirs(leaf, np.broadcast_to(np.float32(0), shape)).shape
