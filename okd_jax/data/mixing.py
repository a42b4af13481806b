"""Mixed pictures with the targets that belong to them: mixup and cutmix."""

import functools

import jax
import jax.numpy as jnp

from okd_jax.data.augmentation import Augment

Array = jax.Array


def mix(
  images: Array, targets: Array, key: Array, *, how: Augment
) -> tuple[Array, Array]:
  """Mixes every example with its counterpart in the reversed batch.

  So the first example is mixed with the last.
  All examples of a batch have the same share, as in the papers' code. As
  batches are drawn at random, so are the pairs.

  Args:
    images: float [B, H, W, c], or one view per peer [P, B, H, W, c].
    targets: probabilities [B, C].
    key: random key of this step.
    how: settings that say what is mixed.

  Returns:
    Images of the same shape, and targets [B, C]. If every peer has mixtures of
    its own, targets [P, B, C].

  References:
    Zhang et al., `mixup <https://arxiv.org/abs/1710.09412>`_, ICLR 2018.
    Yun et al., `CutMix <https://arxiv.org/abs/1905.04899>`_, ICCV 2019.
  """
  one = functools.partial(_mix, how=how)
  if not how.mix_per_peer:
    return one(images, targets, key)
  keys = jax.random.split(key, images.shape[0])
  return jax.vmap(one, in_axes=(0, None, 0))(images, targets, keys)


def _mix(
  images: Array, targets: Array, key: Array, *, how: Augment
) -> tuple[Array, Array]:
  which_key, share_key, box_key = jax.random.split(key, 3)
  other = jnp.flip(images, -4)
  cuts = jnp.asarray(how.cutmix > 0)
  if how.mixup and how.cutmix:
    cuts = jax.random.bernoulli(which_key)
  alpha = jnp.where(cuts, how.cutmix, how.mixup).astype(jnp.float32)
  share = jax.random.beta(share_key, alpha, alpha)
  box = _box(images.shape[-3:-1], share, box_key)
  kept = jnp.where(cuts, ~box, share)
  share = jnp.where(cuts, jnp.mean(~box, dtype=jnp.float32), share)
  kept = kept[..., None].astype(images.dtype)
  mixed = kept * images + (1 - kept) * other
  share = share.astype(targets.dtype)
  return mixed, share * targets + (1 - share) * jnp.flip(targets, -2)


def _box(shape: tuple[int, ...], share: Array, key: Array) -> Array:
  """Mask [H, W], True in a rectangle of about 1 - share of the picture."""
  height, width = shape
  side = jnp.sqrt(1 - share)
  place = jax.random.uniform(key, (2,))
  inside = []
  for size, part in ((height, place[0]), (width, place[1])):
    centre = jnp.floor(part * size)
    half = jnp.floor(jnp.floor(side * size) / 2)
    at = jnp.arange(size)
    inside.append((at >= centre - half) & (at < centre + half))
  return inside[0][:, None] & inside[1]
