"""Converts PyTorch state dicts to our variables and back.

Layer names in a state dict are arbitrary, so layers are matched by order and
shape: the first convolution with the first convolution, and so on for linear
and batch-norm layers. The names of submodules in our networks sort in the order
in which they run. In other networks, the names must sort such that each kind of
layer has the same order as in the state dict.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from flax import linen as nn, traverse_util
import jax.numpy as jnp
import numpy as np

from okd_jax.errors import WeightsError
from okd_jax.groups import as_outputs
from okd_jax.weights import torch_layers as layers_lib

Variables = dict[str, Any]
StateDict = dict[str, np.ndarray]


def load_torch(
  variables: Variables, state_dict: Mapping[str, np.ndarray]
) -> Variables:
  """Fills a network's variables from a PyTorch state dict.

  Layers of each kind are matched in the order of the state dict. If that is
  alphabetical (a .safetensors file keeps no other order), the layers are sorted
  naturally by name first: "stem", then names with a number by number, then
  names without one, then "head" and "classifier". Some networks of timm are
  sorted in the order in which their layers run.

  Names may sort in another order than the state dict has, for example if a
  `downsample` is declared before `bn2`. If the shapes fit in the order of the
  names too, the order whose names are more similar to ours is taken, and the
  order of the state dict if both are equally similar. A warning is logged
  unless the order of the state dict fits and is the more similar one.

  Args:
    variables: collections of one network, without a peer axis: arrays or
      `jax.ShapeDtypeStruct`. They give structure, shapes and dtypes.
    state_dict: arrays by PyTorch's names. The counters `num_batches_tracked`
      and `n_averaged` are ignored.

  Returns:
    New variables of the same structure. Each leaf has the wider of the two
    dtypes. What PyTorch has no counterpart for, the state that a network keeps
    in collections of its own, is as it was given.

  Raises:
    WeightsError: at the first layer that does not fit, with both names and
      shapes, or whose values are not floats (as after quantisation) or not
      finite.
  """
  leaves = traverse_util.flatten_dict(variables)
  filled = dict(leaves)
  for leaf, name in _match(leaves, state_dict):
    value = _to_ours(leaf, state_dict[name], leaves[leaf].shape)
    if jnp.issubdtype(leaves[leaf].dtype, jnp.floating):
      _require_numbers(name, value)
    dtype = np.promote_types(value.dtype, leaves[leaf].dtype)
    filled[leaf] = jnp.asarray(value.astype(dtype))
  return traverse_util.unflatten_dict(filled)


def to_torch(
  variables: Variables, like: Mapping[str, np.ndarray] | None = None
) -> StateDict:
  """Writes a network's variables as a PyTorch state dict.

  Args:
    variables: collections of one network, without a peer axis.
    like: a state dict of the PyTorch network that will load the result. It
      gives the names, their order, and entries that our networks do not have
      (`num_batches_tracked`). With None, names are ours, joined by dots.

  Returns:
    NumPy arrays in PyTorch's layout.

  Raises:
    WeightsError: at the first layer that does not fit `like`.
  """
  leaves = traverse_util.flatten_dict(variables)
  if like is None:
    return {
      layer.name_in_torch(entry): layers_lib.to_theirs(leaf, leaves[leaf])
      for layer in layers_lib.ours(leaves)
      for entry, leaf in layer.entries.items()
    }
  written = {name: np.asarray(value) for name, value in like.items()}
  for leaf, name in _match(leaves, like):
    value = layers_lib.to_theirs(leaf, leaves[leaf])
    written[name] = value.reshape(written[name].shape)
  return written


def check_logits(
  net: nn.Module,
  variables: Variables,
  images: Any,
  logits: Any,
  tolerance: float = 1e-3,
) -> None:
  """Compares the logits of a network with loaded weights with PyTorch's.

  This finds mistakes that nothing else reveals: layers that are declared in
  another order than they run, or another rule for padding.

  Args:
    net: a network of this package, or any linen module.
    variables: its variables, as from `load_torch`.
    images: float [B, H, W, c], the images that the PyTorch network was given.
    logits: its logits in evaluation mode, float [B, C].
    tolerance: allowed difference, relative to the largest absolute logit.

  Raises:
    WeightsError: if the logits differ in shape, or by more than the tolerance.
  """
  found = as_outputs(net.apply(variables, jnp.asarray(images), train=False))
  wanted = np.asarray(logits)
  if found.logits.shape != wanted.shape:
    raise WeightsError(
      f"the logits have shape {found.logits.shape}, and those of PyTorch have "
      f"{wanted.shape}; give logits for the same images."
    )
  worst = float(np.abs(np.asarray(found.logits) - wanted).max())
  scale = float(np.abs(wanted).max())
  if not worst <= tolerance * scale:
    raise WeightsError(
      f"the logits differ from PyTorch's by up to {worst:.2g}, and the largest "
      f"is {scale:.2g}; the network is another one, or its layers are declared "
      "in another order than they run."
    )


def _match(leaves, state_dict) -> Iterator[tuple[tuple[str, ...], str]]:
  """Yields the path of each of our leaves and its name in the state dict.

  Shapes are checked.
  """
  our_layers = layers_lib.ours(leaves)
  theirs = layers_lib.in_order(
    our_layers, layers_lib.theirs(state_dict), leaves, state_dict
  )
  hint = ""
  if layers_lib.are_sorted(state_dict):
    hint = (
      " If it is, give it as .pth: names in .safetensors are sorted, and where "
      "numbers are missing they do not tell in which order the layers run."
    )
  for ours in our_layers:
    other = next((each for each in theirs if each.kind == ours.kind), None)
    if other is None:
      raise WeightsError(
        f"the state dict has no {ours.what} left for '{ours.name}'; give "
        f"one of the same network."
      )
    theirs.remove(other)
    for entry, leaf in ours.entries.items():
      shape = layers_lib.shape_of(leaf, leaves[leaf].shape)
      name = other.entries.get(entry, "")
      theirs_shape = np.shape(state_dict[name]) if name else None
      missing = f"{other.name}.{entry}"
      if theirs_shape is None or not layers_lib.same_shape(shape, theirs_shape):
        raise WeightsError(
          f"'{'/'.join(leaf)}' of shape {tuple(leaves[leaf].shape)} needs "
          f"{shape} in PyTorch's layout, but '{name or missing}' of the "
          f"state dict is {theirs_shape or 'absent'}; give one of the same "
          f"network, size of images and number of classes.{hint}"
        )
      yield leaf, name
    extra = other.entries.keys() - ours.entries.keys()
    if extra:
      raise WeightsError(
        f"'{ours.name}' has no {sorted(extra)[0]}, but '{other.name}' of the "
        f"state dict has one; give one of the same network."
      )
  if theirs:
    raise WeightsError(
      f"'{theirs[0].name}' of the state dict, a {theirs[0].what}, is "
      f"left over; give one of the same network."
    )


def _require_numbers(name: str, value: np.ndarray) -> None:
  if not jnp.issubdtype(value.dtype, jnp.floating):
    raise WeightsError(
      f"'{name}' of the state dict is {value.dtype}, and floats were expected; "
      "give the network before it was quantised."
    )
  if not np.all(np.isfinite(value)):
    raise WeightsError(
      f"'{name}' of the state dict has values that are not finite, as after a "
      "training that diverged; give another state dict."
    )


def _to_ours(leaf, value, shape):
  value = np.asarray(value)
  if leaf[-1] != "kernel":
    return value.reshape(shape)
  # OIHW to HWIO, or [out, in] to [in, out].
  return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
