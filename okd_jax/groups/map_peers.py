"""Applies the program of one network to all peers and over devices."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from okd_jax import layers

MAPPINGS = ("auto", "unroll", "vmap")


def map_peers(
  fn: Callable[..., Any], mapping: str, in_axes: tuple[int | None, ...]
) -> Callable[..., Any]:
  """Maps `fn` over the leading peer axis of the arguments marked with 0.

  Args:
    fn: function of one peer.
    mapping: "vmap", which is not used for a single peer; "unroll", one copy of
      the program per peer, traced once; or "auto", which unrolls, as this is
      far faster on CPU (benchmarks/NOTES.md); on accelerators
      `okd_jax.training.autotune` replaces "auto" before a run.
    in_axes: 0 for arguments with a leading peer axis, None for shared ones.

  Returns:
    A function whose results have a leading peer axis.
  """
  one = jax.jit(fn)

  def mapped(*args):
    if mapping == "vmap" and _count(args, in_axes) > 1:
      with nn.intercept_methods(_convolve_together):
        return jax.vmap(fn, in_axes)(*args)
    columns = [
      None if axis is None else _unstack(arg)
      for arg, axis in zip(args, in_axes, strict=True)
    ]
    results = [
      one(
        *(
          arg if column is None else column[i]
          for arg, column in zip(args, columns, strict=True)
        )
      )
      for i in range(_count(args, in_axes))
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)

  return mapped


def _convolve_together(call, args, kwargs, context):
  """Maps the convolutions of a user's network over peers like ours."""
  module = context.module
  if isinstance(module, nn.Conv) and not (
    module.conv_general_dilated or module.conv_general_dilated_cls
  ):
    # Linen freezes bound modules; this one is about to run.
    together = layers.convolve_together
    object.__setattr__(module, "conv_general_dilated", together)
  return call(*args, **kwargs)


def _count(args: tuple[Any, ...], in_axes: tuple[int | None, ...]) -> int:
  """Number of peers that the arguments have."""
  axes = zip(args, in_axes, strict=True)
  with_peers = [arg for arg, axis in axes if axis is not None]
  return len(jax.tree.leaves(with_peers)[0])


def _unstack(tree: Any) -> list[Any]:
  """Splits the leading axis; its gradient is one concatenation per leaf."""

  def split(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return list(leaf)
    return [jnp.squeeze(x, 0) for x in lax.split(leaf, (1,) * len(leaf))]

  leaves, structure = jax.tree.flatten(tree)
  rows = zip(*(split(leaf) for leaf in leaves), strict=True)
  return [jax.tree.unflatten(structure, row) for row in rows]


def across_devices(axis_name: str) -> Any:
  """Lets layers inside `shard_map` treat the devices' batches as one.

  Batch normalisation (ours and flax's) computes its statistics over
  `axis_name`, and dropout masks depend on the example's place in the whole
  batch, also in a user's network that does not know of devices.

  Args:
    axis_name: the mesh axis that the batch is split over.

  Returns:
    A context manager to enter while the network is traced.
  """

  def intercept(call, args, kwargs, context):
    module = context.module
    if context.method_name == "__call__":
      if isinstance(module, nn.BatchNorm | layers.BatchNorm):
        # Linen freezes bound modules; this one is about to run.
        object.__setattr__(module, "axis_name", axis_name)
      elif isinstance(module, nn.Dropout):
        return _dropout(call, module, axis_name, *args, **kwargs)
    return call(*args, **kwargs)

  return nn.intercept_methods(intercept)


def _dropout(call, module, axis_name, inputs, deterministic=None, rng=None):
  """Runs `nn.Dropout` with masks that ignore the device layout."""
  off = nn.merge_param("deterministic", module.deterministic, deterministic)
  if off or module.rate in (0.0, 1.0):
    return call(inputs, deterministic, rng)
  return layers.drop(
    inputs,
    module.make_rng(module.rng_collection) if rng is None else rng,
    rate=module.rate,
    broadcast_dims=module.broadcast_dims,
    axis_name=axis_name,
  )
