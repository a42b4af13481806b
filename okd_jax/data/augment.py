"""Augmentation and normalisation, on the device."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from okd_jax.data.info import DataInfo

Array = jax.Array


@functools.partial(
  jax.jit, static_argnames=("info", "num_views", "pad_mode", "dtype", "mesh")
)
def augment(
  images: Array,
  key: Array,
  *,
  info: DataInfo,
  num_views: int | None = None,
  pad_mode: str = "constant",
  dtype: Any = jnp.float32,
  mesh: Mesh | None = None,
) -> Array:
  """Pads, crops and flips at random, and normalises.

  In this order: pad `info.pad` on each side of the uint8 image, random crop of
  the original size, horizontal flip with probability 1/2 if `info.flip`, scale
  to [0, 1], normalise. Zero padding is black, so it becomes -mean/std (Chen et
  al., AAAI 2020, published code).

  What happens to an example depends on the key, its place in the whole batch
  and the view, never on the device that it is on. View 0 is what is returned
  without views.

  Images that the source has cropped and flipped (`info.resized_crop`) are only
  normalised.

  Args:
    images: uint8 [B, H, W, c]; with `info.resized_crop` and views
      [P, B, H, W, c].
    key: random key of this step.
    info: of the data set.
    num_views: P, one independent view a peer; None for one view without the
      axis.
    pad_mode: "constant" (zeros), "reflect" (Feature Fusion Learning), or
      "symmetric", which repeats the edge (wide residual networks).
    dtype: of the result; computed in float32 at least.
    mesh: with axes "data" and "peer"; None for a single device.

  Returns:
    [B, H, W, c], or [P, B, H, W, c] with views.
  """
  if info.resized_crop:
    leading = (num_views, None) if num_views else (None,)
    chex.assert_shape(images, (*leading, *info.image_shape))
    return normalize(images, info, dtype)
  chex.assert_shape(images, (None, *info.image_shape))
  chex.assert_type(images, jnp.uint8)
  if pad_mode not in ("constant", "reflect", "symmetric"):
    raise ValueError(
      f"pad_mode={pad_mode!r} must be 'constant', 'reflect' or 'symmetric'; "
      "change it."
    )
  local = functools.partial(_views, info=info, pad_mode=pad_mode, dtype=dtype)
  views = jnp.arange(num_views or 1)
  if mesh is None:
    augmented = local(images, key, views, jnp.arange(len(images)))
    return augmented if num_views else augmented[0]
  axis = "peer" if num_views else None
  _check_divides("num_views", num_views or 1, mesh, axis)
  _check_divides("batch size", len(images), mesh, "data")
  spec = PartitionSpec("data")
  augmented = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(spec, PartitionSpec(), PartitionSpec(axis), spec),
    out_specs=PartitionSpec(axis, "data"),
  )(images, key, views, jnp.arange(len(images)))
  return augmented if num_views else augmented[0]


def normalize(images: Array, info: DataInfo, dtype: Any = jnp.float32) -> Array:
  """Scales uint8 [..., c] to [0, 1], subtracts mean, divides by deviation."""
  chex.assert_type(images, jnp.uint8)
  wide = jnp.promote_types(dtype, jnp.float32)
  mean, std = (jnp.asarray(x, wide) for x in (info.mean, info.std))
  return ((images.astype(wide) / 255 - mean) / std).astype(dtype)


def _check_divides(what, size, mesh, axis):
  if axis and size % mesh.shape[axis]:
    raise ValueError(
      f"{what} {size} must be a multiple of the {axis} axis of the mesh "
      f"({mesh.shape[axis]}); change one of them."
    )


def _views(images, key, views, slots, *, info, pad_mode, dtype):
  pad = info.pad
  padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), pad_mode)
  # Offsets of the crop in [0, 2 pad], and whether to flip.
  # A remainder of 32 bits is uniform to one part in 10^8; jax.random.randint
  # would hash three times for one draw.
  limits = jnp.array([2 * pad + 1, 2 * pad + 1, 2], jnp.uint32)

  def one(image, view, slot):
    example_key = jax.random.fold_in(jax.random.fold_in(key, view), slot)
    bits = jax.random.bits(example_key, (3,), jnp.uint32)
    row, column, flip = (bits % limits).astype(jnp.int32)
    crop = jax.lax.dynamic_slice(
      image, (row, column, jnp.zeros_like(row)), info.image_shape
    )
    if not info.flip:
      return crop
    return jnp.where(flip, crop[:, ::-1], crop)

  examples = jax.vmap(one, in_axes=(0, None, 0))
  cropped = jax.vmap(examples, in_axes=(None, 0, None))(padded, views, slots)
  return normalize(cropped, info, dtype)
