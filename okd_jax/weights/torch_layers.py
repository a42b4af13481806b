"""Lists the layers of our variables and of PyTorch state dicts in order."""

from collections.abc import Iterable
import logging
import re
from typing import Any, NamedTuple

import numpy as np

from okd_jax.errors import WeightsError
from okd_jax.weights import torch_names

_KINDS = {4: "conv", 2: "linear", 1: "batch norm"}  # by rank of the weight
# An array outside layers: position embeddings, a class token or a gain.
_PARAMETER = "parameter"
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
# Of batch norm, and of torch.optim.swa_utils.AveragedModel.
_COUNTERS = ("num_batches_tracked", "n_averaged")

_log = logging.getLogger(__name__)


def forward_order(name: str) -> tuple:
  """Sort key of a layer's name, whose parts are separated by "/" or ".".

  The parts sort as follows: first "stem..."; then parts with a number, by their
  first number and then naturally; then parts without a number; last "head..."
  and "classifier...".
  """
  return tuple(_part_order(part) for part in re.split(r"[/.]", name))


def _part_order(part):
  numbers = [int(number) for number in re.findall(r"\d+", part)]
  # Text and numbers alternate, so that text is only compared with text.
  natural = [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", part)]
  if part.startswith("stem"):
    return 0, 0, natural
  if part.startswith(("head", "classifier")):
    return 3, 0, natural
  if not numbers:
    return 2, 0, natural
  return 1, numbers[0], natural


class Layer(NamedTuple):
  """A layer of a network, or a single parameter outside layers."""

  kind: str
  name: str
  # By PyTorch's name of the entry, such as "weight": the path of our leaf, or
  # the full name in the state dict. For a parameter, the entry is "".
  entries: dict[str, Any]
  # Sort key of the name.
  order: tuple

  @property
  def what(self) -> str:
    """What it is, for messages: "linear layer" or "parameter"."""
    return self.kind if self.kind == _PARAMETER else f"{self.kind} layer"

  def name_in_torch(self, entry: str) -> str:
    """Name of an entry of our layer in a state dict."""
    return ".".join(filter(None, (self.name.replace("/", "."), entry)))


def ours(leaves) -> list[Layer]:
  """Our layers, in the order of their names.

  Raises:
    WeightsError: if a layer is of another kind, or has a peer axis.
  """
  found = []
  for collection, *path, last in leaves:
    of_layer = last in ("kernel", "scale") or (
      last == "bias"
      and any(
        (collection, *path, other) in leaves for other in ("kernel", "scale")
      )
    )
    if collection == "params" and not of_layer:
      name = "/".join((*path, last))
      leaf = {"": (collection, *path, last)}
      found.append(Layer(_PARAMETER, name, leaf, forward_order(name)))
    if collection != "params" or last not in ("kernel", "scale"):
      continue
    name = "/".join(path)
    rank = len(leaves[collection, *path, last].shape)
    kind = _KINDS.get(rank)
    if kind is None or (kind == "batch norm") != (last == "scale"):
      raise WeightsError(
        f"'{name}/{last}' has {rank} axes, so it is no convolution, linear or "
        "batch-norm layer of one network. If it is of a group, extract one "
        "peer first; attention of Flax (MultiHeadDotProductAttention) is not "
        "read or written, so make it of linear layers."
      )
    entries = {
      entry: (group, *path, leaf)
      for entry, (group, leaf) in _LEAVES[kind].items()
      if (group, *path, leaf) in leaves
    }
    found.append(Layer(kind, name, entries, forward_order(name)))
  return sorted(found, key=lambda layer: layer.order)


def theirs(state_dict) -> list[Layer]:
  """Layers of a state dict, in its order, or sorted if that is alphabetical.

  The layers of some timm networks are always sorted, in the order in which they
  run; see `okd_jax.weights.torch_names`.

  Raises:
    WeightsError: if a layer is of another kind.
  """
  names = [n for n in state_dict if n.rpartition(".")[2] not in _COUNTERS]
  entries: dict[str, dict[str, str]] = {}
  for name in names:
    prefix, _, entry = name.rpartition(".")
    entries.setdefault(prefix, {})[entry] = name
  rename = torch_names.sortable(state_dict)
  found = []
  for prefix, of_prefix in entries.items():
    found += _of_prefix(prefix, of_prefix, rename or str, state_dict)
  if rename or are_sorted(names):
    found.sort(key=lambda layer: layer.order)
  return found


def are_sorted(names: Iterable[str]) -> bool:
  """Whether names are in alphabetical order, as in every safetensors file."""
  names = list(names)
  return names == sorted(names)


def _of_prefix(prefix, entries, rename, state_dict) -> list[Layer]:
  """The layer of that name, or the parameters there that form no layer."""
  order = forward_order(rename(prefix))
  weight = entries.get("weight")
  alone = [*entries] == ["bias"]
  if weight is None and (
    alone or not entries.keys() <= _LEAVES["batch norm"].keys()
  ):
    return [
      Layer(_PARAMETER, name, {"": name}, (*order, *forward_order(entry)))
      for entry, name in entries.items()
    ]
  kind = weight and _KINDS.get(np.ndim(state_dict[weight]))
  if kind is None or not entries.keys() <= _LEAVES[kind].keys():
    shapes = {n: np.shape(state_dict[n]) for n in entries.values()}
    raise WeightsError(
      f"layer '{prefix}' of the state dict is no convolution, linear or "
      f"batch-norm layer, and no other kind is supported: {shapes}."
    )
  return [Layer(kind, prefix, entries, order)]


def num_classes(state_dict) -> int | None:
  """Number of outputs of the last linear layer of a state dict, if it has one.

  Raises:
    WeightsError: if a layer is of another kind.
  """
  linear = [layer for layer in theirs(state_dict) if layer.kind == "linear"]
  if not linear:
    return None
  return int(np.shape(state_dict[linear[-1].entries["weight"]])[0])


def in_order(
  ours: list[Layer], declared: list[Layer], leaves: Any, state_dict: Any
) -> list[Layer]:
  """The layers of a state dict in the order that fits ours best.

  See `okd_jax.weights.torch.load_torch`.

  Args:
    ours: layers of our network.
    declared: layers of the state dict, in its order.
    leaves: our variables by path.
    state_dict: the state dict.
  """
  by_name = sorted(declared, key=lambda layer: layer.order)
  pairs, named = _pairs(ours, declared), _pairs(ours, by_name)
  moved = [
    (a.name, b.name)
    for (_, a), (_, b) in zip(pairs, named, strict=True)
    if a is not b
  ]
  if not moved or not _fit(named, leaves, state_dict):
    return declared
  fits = _fit(pairs, leaves, state_dict)
  likeness, when_named = sum(map(_alike, pairs)), sum(map(_alike, named))
  if fits and likeness > when_named:
    return declared
  taken = "as their names count" if likeness < when_named else "as declared"
  if not fits:
    taken = "as their names count"
  _log.warning(
    "Layers of the PyTorch weights are declared in another order than their "
    "names count: '%s' stands where '%s' would. They are taken %s; to make "
    "sure, compare logits with okd_jax.weights.torch.check_logits.",
    *(*moved[0], taken),
  )
  return declared if taken == "as declared" else by_name


def _pairs(ours: list[Layer], theirs: list[Layer]) -> list[tuple[Layer, Layer]]:
  """Pairs our layers with theirs, for each kind in order."""
  found = []
  for kind in (*_KINDS.values(), _PARAMETER):
    of_kind = (
      [layer for layer in layers if layer.kind == kind]
      for layers in (ours, theirs)
    )
    found += list(zip(*of_kind, strict=False))
  return found


def _fit(pairs: list[tuple[Layer, Layer]], leaves, state_dict) -> bool:
  return all(
    entry in other.entries
    and same_shape(
      shape_of(leaf, leaves[leaf].shape),
      np.shape(state_dict[other.entries[entry]]),
    )
    for layer, other in pairs
    for entry, leaf in layer.entries.items()
  )


def _alike(pair: tuple[Layer, Layer]) -> int:
  """Similarity of the last parts of two names: 0, 1 or 2."""
  ours, theirs = (re.split(r"[/._]", layer.name)[-1] for layer in pair)
  numbers = [re.findall(r"\d+", name) for name in (ours, theirs)]
  return (ours == theirs) + (bool(numbers[0]) and numbers[0] == numbers[1])


def to_theirs(leaf, value):
  """Array of one of our leaves in PyTorch's layout."""
  value = np.asarray(value)
  if leaf[-1] == "kernel":
    theirs = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    # safetensors writes the buffer in memory order and ignores the strides.
    return np.ascontiguousarray(theirs)
  # A parameter with one vector for each position, such as embeddings.
  return value.reshape(1, -1, value.shape[-1]) if value.ndim == 4 else value


def shape_of(leaf, shape):
  """Shape of one of our leaves in PyTorch's layout."""
  return to_theirs(leaf, np.broadcast_to(np.float32(0), shape)).shape


def same_shape(ours: tuple[int, ...], theirs: tuple[int, ...]) -> bool:
  """Whether shapes are equal, except for axes of size 1 at the end.

  A gain for each channel is [C] in one project and [C, 1, 1] in another.
  """
  short, long = sorted((ours, theirs), key=len)
  return long == short + (1,) * (len(long) - len(short))
