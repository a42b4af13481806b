"""Inputs of a method for the checks that need no training."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from okd_jax import core

P, B, C, D, H = 4, 8, 5, 8, 4
NUM_EXAMPLES = 64
# Checks compile much and compute little: the compiler need not try hard.
QUICK = {
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
}
# Three times as quick; later releases do not know the option and refuse it.
if jax.__version_info__ < (0, 11):
  QUICK["xla_cpu_use_fusion_emitters"] = False


def of_maps(method: core.Method) -> bool:
  """Whether a method is for heat maps, and not for classes."""
  return method.task == "keypoints"


def random_outputs(
  method: core.Method,
  num_peers: int = P,
  *,
  scale: float = 1.0,
  dtype: Any = jnp.float32,
  trunk: bool = True,
) -> core.Outputs:
  """Random outputs of a group, with those of its averages and of a teacher.

  Args:
    method: the method, which determines the kind of logits.
    num_peers: number P of peers.
    scale: scale of the logits.
    dtype: dtype of features and maps; logits are float32 at least.
    trunk: whether the peers share a trunk.
  """
  rng = np.random.default_rng(0)
  wide = jnp.promote_types(dtype, jnp.float32)

  def draw(*shape, factor=1.0, dtype=dtype):
    return jnp.asarray(factor * rng.normal(size=shape), dtype)

  def group(count):
    out = (H, H, C) if of_maps(method) else (C,)
    logits = draw(count, B, *out, factor=scale, dtype=wide)
    maps: Any = (draw(count, B, 2 * H, 2 * H, D // 2), draw(count, B, H, H, D))
    if of_maps(method):
      # What all stacks start from, and the heat maps of two of them.
      maps = (maps[1], draw(count, B, *out, dtype=wide), logits)
    return core.Outputs(
      logits=logits,
      features=draw(count, B, D),
      maps=maps,
      trunk=draw(B, D) if trunk else None,
    )

  return dataclasses.replace(
    group(num_peers), ema=group(num_peers), teacher=group(1)
  )


def random_batch(
  method: core.Method, soft: bool = False, dtype: Any = jnp.float32
) -> core.Batch:
  """Blank images with random labels, or random heat maps.

  Args:
    method: the method, which determines which of the two.
    soft: whether labels are probabilities [B, C] that are 0 or 1.
    dtype: dtype of these probabilities.
  """
  rng = np.random.default_rng(1)
  target: Any
  if of_maps(method):
    target = {
      "maps": jnp.asarray(rng.random((B, H, H, C)), dtype),
      "weight": jnp.asarray(rng.integers(0, 2, (B, C)), dtype),
    }
  else:
    labels = rng.integers(0, C, B).astype(np.int32)
    hot = jax.nn.one_hot(labels, C, dtype=dtype) if soft else labels
    target = jnp.asarray(hot)
  return core.Batch(
    image=jnp.zeros((B, H, H, 1)),
    target=target,
    index=jnp.arange(B, dtype=jnp.int32),
    mask=jnp.ones(B, bool),
  )


def other_batch(batch: core.Batch) -> core.Batch:
  """A batch in which every field is another, and a third example padding."""

  def other(leaf):
    integers = jnp.issubdtype(leaf.dtype, jnp.integer)
    return (leaf + 1) % C if integers else 1 - leaf

  return core.Batch(
    image=batch.image + 1,
    target=jax.tree.map(other, batch.target),
    index=batch.index + 7,
    mask=batch.mask.at[2].set(False),
  )


def first(seen: core.Outputs, count: int) -> core.Outputs:
  """The outputs of the first examples of a batch, all else included."""

  def cut(group):
    return dataclasses.replace(
      group,
      logits=group.logits[:, :count],
      features=group.features[:, :count],
      maps=tuple(stage[:, :count] for stage in group.maps),
      trunk=None if group.trunk is None else group.trunk[:count],
    )

  return dataclasses.replace(
    cut(seen), ema=cut(seen.ema), teacher=cut(seen.teacher)
  )


def context(
  method: core.Method, train: bool = True, *, later: bool = False
) -> core.Context:
  """The context of a step in the middle of a run of this method."""
  labels = jnp.arange(NUM_EXAMPLES, dtype=jnp.int32) % C
  return core.Context(
    epoch=jnp.float32(1 + later),
    step=jnp.int32(3 + later),
    rampup=jnp.float32(0.5 + 0.25 * later),
    key=jax.random.key(int(later)),
    num_examples=NUM_EXAMPLES,
    train=train,
    train_labels=labels if train and method.needs.train_labels else None,
  )
