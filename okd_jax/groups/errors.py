"""Refuses what cannot be a group, and says why."""

from collections.abc import Sequence
import inspect
import numbers
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from okd_jax import trees
from okd_jax.batch import has_views
from okd_jax.core import Outputs
from okd_jax.devices.mesh import DATA, PEER
from okd_jax.errors import ConfigError
from okd_jax.groups.layout import Stack
from okd_jax.groups.map_peers import MAPPINGS


class GroupError(ConfigError):
  """These networks cannot be peers, or not on this mesh."""


def check_sizes(stacks: Sequence[Stack], mesh: Mesh, mapping: str) -> None:
  """Raises GroupError unless the mesh can hold the stacks."""
  if not {DATA, PEER} <= {*mesh.axis_names}:
    raise GroupError(
      f"the mesh has the axes {mesh.axis_names}, and must have '{DATA}' and "
      f"'{PEER}'; okd_jax.devices.mesh.make_mesh makes one."
    )
  peer, num_peers = mesh.shape[PEER], sum(stack.count for stack in stacks)
  counts = [stack.count for stack in stacks]
  whole = all(isinstance(count, numbers.Integral) for count in counts)
  if not whole or min(counts, default=0) < 1:
    raise GroupError(
      f"config.peers.num_peers={num_peers} must be a whole number of at least "
      "1, and so must the number of networks in every stack."
    )
  if len(stacks) > 1 and peer != 1:
    raise GroupError(
      f"config.mesh.peer={peer} must be 1 for a group of different networks; "
      "set it to 1, or give all peers one network."
    )
  if num_peers % peer:
    raise GroupError(
      f"config.mesh.peer={peer} must divide config.peers.num_peers={num_peers};"
      " change one of them."
    )
  if mapping not in MAPPINGS:
    raise GroupError(
      f"config.peers.mapping='{mapping}' must be one of {MAPPINGS}."
    )


def check_batch(images: Any, mesh: Mesh) -> None:
  """Raises GroupError unless the devices get equal parts of a batch.

  Args:
    images: [B, H, W, c], or one view per peer [P, B, H, W, c].
    mesh: the devices.
  """
  size = images.shape[1 if has_views(images) else 0]
  devices = mesh.shape[DATA]
  if size % devices:
    raise GroupError(
      f"a batch of {size} examples must be a multiple of {devices}, the number "
      "of devices that share it; take another size, or in evaluation add "
      "examples whose `mask` is False."
    )


def check_network(net: Any) -> None:
  """Raises GroupError unless a network is a linen module."""
  if isinstance(net, nn.Module):
    return
  found = f"the class {net.__name__}" if isinstance(net, type) else repr(net)
  raise GroupError(
    f"a peer must be an instance of flax.linen.Module; got {found:.200}. "
    "okd_jax.backbones.make(name, num_classes) makes one of ours, and "
    "okd_jax.backbones.nnx_network.make(Class, num_classes) one of a class of "
    "flax nnx."
  )


def check_call(net: nn.Module) -> None:
  """Raises GroupError unless a network is called as `net(x, train=...)`."""
  check_network(net)
  signature = inspect.signature(type(net).__call__)
  try:
    signature.bind(net, None, train=False)
  except TypeError as error:
    raise GroupError(
      f"{type(net).__name__} must be called as net(images, train=...), and its "
      f"__call__ takes ({', '.join(list(signature.parameters)[1:])}): {error}; "
      "give it the argument 'train', for example `train` for `not "
      "deterministic`, and all others a default."
    ) from error


def check_variables(net: nn.Module, variables: Any) -> None:
  """Raises GroupError unless a network has something to train."""
  if not jax.tree.leaves(variables):
    raise GroupError(
      f"{type(net).__name__} has no variables, so there is nothing to train; "
      "make some in its first call, for example by nn.Dense."
    )


def check_counts(stacks: Sequence[Stack], variables: Sequence[Any]) -> None:
  """Raises GroupError unless variables are of as many peers as the group."""
  for stack, own in zip(stacks, variables, strict=True):
    for name, leaf in trees.named(own):
      if leaf.shape[:1] != (stack.count,):
        raise GroupError(
          f"'{name}' has shape {list(leaf.shape)}, and the group has "
          f"{stack.count} peer(s) of {type(stack.net).__name__}, which the "
          "first axis must have; take variables of a group of this size."
        )


def check_outputs(result: Any, outputs: Outputs) -> None:
  """Raises GroupError unless a network returned what it must return.

  Args:
    result: result of the network.
    outputs: outputs that are read from the result.
  """
  logits, features = outputs.logits, outputs.features
  if (
    isinstance(logits, jax.Array)
    and isinstance(features, jax.Array)
    and all(jnp.issubdtype(x.dtype, jnp.floating) for x in (logits, features))
    and logits.ndim > 1
    # Heat maps may have features of any shape.
    and (logits.ndim != 2 or features.shape[:-1] == logits.shape[:1])
    and isinstance(outputs.maps, tuple | list)
    and all(isinstance(each, jax.Array) for each in outputs.maps)
  ):
    return
  raise GroupError(
    f"a network returned {_described(result)}; let it return logits [B, C] as "
    "floats, a tuple of logits and features [B, D], or okd_jax.core.Outputs "
    "with a tuple of maps."
  )


def check_alike(results: Sequence[Outputs]) -> None:
  """Raises GroupError unless networks return logits of one shape."""
  shapes = [result.logits.shape[2:] for result in results]
  if len(set(shapes)) > 1:
    listed = ", ".join(str(list(shape)) for shape in shapes)
    raise GroupError(
      "the networks of a group must return logits of one shape, and an image "
      f"has {listed}; make all of them for the same classes."
    )


def check_trunk(net: nn.Module, hidden: Any) -> None:
  """Raises GroupError unless a trunk returned one array with a batch axis."""
  if isinstance(hidden, jax.Array) and hidden.ndim > 1:
    return
  raise GroupError(
    f"the trunk of {type(net).__name__} returned {_described(hidden)}; let it "
    "return one array, maps [B, H, W, D], tokens [B, T, D] or vectors [B, D]. "
    "Where tails need several, concatenate them."
  )


def _described(result: Any) -> str:
  kind = type(result).__name__
  if isinstance(result, jax.Array):
    return f"{result.dtype}{list(result.shape)}"
  if isinstance(result, Outputs):
    logits, features = map(_described, (result.logits, result.features))
    maps = _described(result.maps)
    return f"Outputs with logits {logits}, features {features}, maps {maps}"
  if isinstance(result, tuple | list):
    return f"a {kind} of {', '.join(map(_described, result)) or 'nothing'}"
  return "None" if result is None else f"a {kind}"
