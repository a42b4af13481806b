"""Draws what an example is told from, and what it is told to be like."""

import jax
import jax.numpy as jnp

from okd_jax.core import Array


def draw_negatives(
  key: Array, labels: Array, index: Array, count: int, *, replacement: bool
) -> Array:
  """Draws examples of other classes for every example of a batch.

  Every set of `count` candidates is equally likely; with replacement every
  candidate is equally likely in each draw. Without replacement, the examples of
  a batch read the same permutation of all examples from different places, which
  costs one sort a batch. Takes memory for B x N integers.

  Args:
    key: random key.
    labels: int32 [N], labels of all examples, -1 for those not to be drawn.
    index: int32 [B], positions of the batch in `labels`.
    count: number K to draw; without replacement at most the number of
      candidates.
    replacement: whether an example may be drawn twice.

  Returns:
    Positions, int32 [B, K].
  """
  order_key, rank_key = jax.random.split(key)
  order = jax.random.permutation(
    order_key, jnp.arange(len(labels), dtype=jnp.int32)
  )
  labels = jnp.asarray(labels)
  shuffled, own = labels[order], labels[index][:, None]
  is_candidate = (shuffled >= 0) & (shuffled != own)
  # Number of candidates up to a place.
  found = jnp.cumsum(is_candidate, axis=1, dtype=jnp.int32)
  # In an initialisation all labels are equal.
  total = jnp.maximum(found[:, -1:], 1)
  shape = (len(index), count if replacement else 1)
  ranks = jax.random.randint(rank_key, shape, 0, total, jnp.int32)
  if not replacement:
    ranks = (ranks + jnp.arange(count, dtype=jnp.int32)) % total
  places = jax.vmap(jnp.searchsorted)(found, ranks + 1)
  return order[places]


def draw_positives(key: Array, labels: Array, index: Array) -> Array:
  """Draws an example of the same class for every example of a batch.

  Every example of the class is equally likely, the example itself too. Takes
  memory for B x N integers.

  Args:
    key: random key.
    labels: int32 [N], labels of all examples, -1 for those not to be drawn.
    index: int32 [B], positions of the batch in `labels`, of examples that have
      a label.

  Returns:
    Positions, int32 [B].
  """
  labels = jnp.asarray(labels)
  found = jnp.cumsum(labels == labels[index][:, None], axis=1, dtype=jnp.int32)
  ranks = jax.random.randint(key, (len(index), 1), 0, found[:, -1:], jnp.int32)
  return jax.vmap(jnp.searchsorted)(found, ranks + 1)[:, 0]
