"""Augmentation and normalisation, on the device."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
import numpy as np

from okd_jax.batch import has_views
from okd_jax.data import erasing, policies
from okd_jax.data.augmentation import Augment, PLAIN
from okd_jax.data.info import DataInfo

Array = jax.Array

_APART = 2**30


@functools.partial(
  jax.jit,
  static_argnames=("info", "num_views", "pad_mode", "dtype", "mesh", "how"),
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
  how: Augment = PLAIN,
) -> Array:
  """Pads, crops and flips at random, and normalises.

  In this order: pad `info.pad` on each side of the uint8 image, random crop of
  the original size, horizontal flip with probability 1/2 if `info.flip`, scale
  to [0, 1], normalise. Zero padding is black, so it becomes -mean/std (Chen et
  al., AAAI 2020, published code). Other changes of single pictures that `how`
  requests come between the flip and the scale, except for erased areas, which
  come last.

  What happens to an example depends on the key, its place in the whole batch
  and the view, never on the device that it is on. Without views the result is
  that of view 0.

  Images that the source has cropped and flipped (`info.resized_crop`) are not
  padded, cropped or flipped.

  Args:
    images: uint8 [B, H, W, c]; with `info.resized_crop` and views
      [P, B, H, W, c].
    key: random key of this step.
    info: facts about the data set.
    num_views: number P of independent views, one per peer; None for one view
      without the axis.
    pad_mode: "constant" (zeros), "reflect" (Feature Fusion Learning), or
      "symmetric", which repeats the edge (wide residual networks).
    dtype: dtype of the result; computed in float32 at least.
    mesh: mesh with axes "data" and "peer"; None for a single device.
    how: further changes of pictures; its mixtures are not made here.

  Returns:
    [B, H, W, c], or [P, B, H, W, c] with views.
  """
  viewed = info.resized_crop and num_views
  leading = (num_views, None) if viewed else (None,)
  chex.assert_shape(images, (*leading, *info.image_shape))
  chex.assert_type(images, jnp.uint8)
  if pad_mode not in ("constant", "reflect", "symmetric"):
    raise ValueError(
      f"pad_mode={pad_mode!r} must be 'constant', 'reflect' or 'symmetric'; "
      "change it."
    )
  if info.resized_crop and not _changes(how):
    return normalize(images, info, dtype)
  local = functools.partial(
    _views, info=info, pad_mode=pad_mode, dtype=dtype, how=how
  )
  views, slots = jnp.arange(num_views or 1), jnp.arange(images.shape[-4])
  if mesh is None:
    augmented = local(images, key, views, slots)
    return augmented if num_views else augmented[0]
  axis = "peer" if num_views else None
  _check_divides("num_views", num_views or 1, mesh, axis)
  _check_divides("batch size", len(slots), mesh, "data")
  spec = PartitionSpec("data")
  augmented = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(
      PartitionSpec("peer", "data") if viewed else spec,
      PartitionSpec(),
      PartitionSpec(axis),
      spec,
    ),
    out_specs=PartitionSpec(axis, "data"),
  )(images, key, views, slots)
  return augmented if num_views else augmented[0]


def normalize(images: Array, info: DataInfo, dtype: Any = jnp.float32) -> Array:
  """Scales uint8 [..., c] to [0, 1], subtracts mean, divides by std."""
  chex.assert_type(images, jnp.uint8)
  wide = jnp.promote_types(dtype, jnp.float32)
  mean, std = (jnp.asarray(x, wide) for x in (info.mean, info.std))
  return ((images.astype(wide) / 255 - mean) / std).astype(dtype)


def denormalize(images: Any, info: DataInfo) -> np.ndarray:
  """The inverse of `normalize` on the host: uint8, clipped to 0 to 255."""
  levels = np.asarray(images) * np.array(info.std) + np.array(info.mean)
  pixels: np.ndarray = np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8)
  return pixels


def _check_divides(what, size, mesh, axis):
  if axis and size % mesh.shape[axis]:
    raise ValueError(
      f"{what} {size} must be a multiple of the {axis} axis of the mesh "
      f"({mesh.shape[axis]}); change one of them."
    )


def _views(images, key, views, slots, *, info, pad_mode, dtype, how):
  viewed = has_views(images)
  if not info.resized_crop:
    images = _crops(images, key, views, slots, info, pad_mode, crops=how.crop)
    viewed = True
  if not _changes(how):
    return normalize(images, info, dtype)

  def one(image, view, slot):
    # Far from the draws of crop and flip, which count from the same key.
    example_key = jax.random.fold_in(_key_of(key, view, slot), _APART)
    policy_key, jitter_key, erase_key, cut_key = jax.random.split(
      example_key, 4
    )
    if how.policy == "rand_augment":
      image = policies.rand_augment(
        image, policy_key, count=how.operations, level=how.level
      )
    elif how.policy == "trivial_augment":
      image = policies.trivial_augment(image, policy_key)
    if how.jitter:
      image = policies.jitter(image, jitter_key, how.jitter)
    image = normalize(image, info, dtype)
    if how.erase:
      image = erasing.erase(image, erase_key, how.erase)
    if how.cutout:
      image = erasing.cut_out(image, cut_key, how.cutout)
    return image

  examples = jax.vmap(one, in_axes=(0, None, 0))
  return jax.vmap(examples, in_axes=(0 if viewed else None, 0, None))(
    images, views, slots
  )


def _changes(how):
  """Whether single pictures are changed in other ways than crop and flip."""
  return how.policy != "none" or how.jitter or how.erase or how.cutout


def _key_of(key, view, slot):
  return jax.random.fold_in(jax.random.fold_in(key, view), slot)


def _crops(images, key, views, slots, info, pad_mode, *, crops):
  pad = info.pad if crops else 0
  padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), pad_mode)
  # Offsets of the crop in [0, 2 pad], and whether to flip.
  # A remainder of 32 bits is uniform to one part in 10^8; jax.random.randint
  # would hash three times for one draw.
  limits = jnp.array([2 * pad + 1, 2 * pad + 1, 2], jnp.uint32)

  def one(image, view, slot):
    bits = jax.random.bits(_key_of(key, view, slot), (3,), jnp.uint32)
    row, column, flip = (bits % limits).astype(jnp.int32)
    crop = jax.lax.dynamic_slice(
      image, (row, column, jnp.zeros_like(row)), info.image_shape
    )
    if not info.flip:
      return crop
    return jnp.where(flip, crop[:, ::-1], crop)

  examples = jax.vmap(one, in_axes=(0, None, 0))
  return jax.vmap(examples, in_axes=(None, 0, None))(padded, views, slots)
