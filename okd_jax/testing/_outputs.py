"""What a method is shown by the checks that need no training."""

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


def random_outputs(
  num_peers: int = P,
  *,
  scale: float = 1.0,
  dtype: Any = jnp.float32,
  trunk: bool = True,
) -> core.Outputs:
  """Random outputs of a group, with those of its averages and of a teacher.

  Args:
    num_peers: P.
    scale: of the logits.
    dtype: of features and maps; logits are float32 at least.
    trunk: whether the peers share one.
  """
  rng = np.random.default_rng(0)
  wide = jnp.promote_types(dtype, jnp.float32)

  def draw(*shape, factor=1.0, dtype=dtype):
    return jnp.asarray(factor * rng.normal(size=shape), dtype)

  def group(count):
    return core.Outputs(
      logits=draw(count, B, C, factor=scale, dtype=wide),
      features=draw(count, B, D),
      maps=(draw(count, B, 2 * H, 2 * H, D // 2), draw(count, B, H, H, D)),
      trunk=draw(B, D) if trunk else None,
    )

  return dataclasses.replace(
    group(num_peers), ema=group(num_peers), teacher=group(1)
  )


def random_batch(soft: bool = False, dtype: Any = jnp.float32) -> core.Batch:
  """Blank images with random labels.

  Args:
    soft: the labels as probabilities [B, C] that are 0 or 1.
    dtype: of those.
  """
  labels = np.random.default_rng(1).integers(0, C, B).astype(np.int32)
  target = jax.nn.one_hot(labels, C, dtype=dtype) if soft else labels
  return core.Batch(
    image=jnp.zeros((B, H, H, 1)),
    target=jnp.asarray(target),
    index=jnp.arange(B, dtype=jnp.int32),
    mask=jnp.ones(B, bool),
  )


def context(method: core.Method, train: bool = True) -> core.Context:
  """A moment in the middle of a run of this method."""
  labels = jnp.arange(NUM_EXAMPLES, dtype=jnp.int32) % C
  return core.Context(
    epoch=jnp.float32(1),
    step=jnp.int32(3),
    rampup=jnp.float32(0.5),
    key=jax.random.key(0),
    num_examples=NUM_EXAMPLES,
    train=train,
    train_labels=labels if train and method.needs.train_labels else None,
  )
