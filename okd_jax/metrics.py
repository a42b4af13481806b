"""Measures of predictions, as sums inside jit and named figures outside."""

from collections.abc import Iterable
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from okd_jax import losses, mesh
from okd_jax.core import Array, Batch

NUM_BINS = 15


@struct.dataclass
class Sums:
  """Sums over the examples of a batch that are not padding.

  Attributes:
    count: int32 scalar.
    correct: int32 [...], examples whose label is the first choice.
    correct_top5: int32 [...], examples whose label is among the first five.
    cross_entropy: float [...], in nats.
    bin_count: int32 [..., bins], examples by confidence of the first choice.
    bin_confidence: float [..., bins], their confidences.
    bin_correct: int32 [..., bins], the correct ones among them.
  """

  count: Array
  correct: Array
  correct_top5: Array
  cross_entropy: Array
  bin_count: Array
  bin_confidence: Array
  bin_correct: Array


def sums(logits: Array, batch: Batch) -> Sums:
  """Measures predictions.

  Args:
    logits: [..., B, C].
    batch: labels and mask.

  Returns:
    Sums over B for every leading index.
  """
  log_probs = jax.nn.log_softmax(logits)
  picked = jnp.take_along_axis(
    log_probs,
    jnp.broadcast_to(batch.label, logits.shape[:-1])[..., None],
    axis=-1,
  )
  # Ties count against the label unless it comes first, as in argmax.
  before = jnp.arange(logits.shape[-1]) < batch.label[:, None]
  rank = jnp.sum((log_probs > picked) | ((log_probs == picked) & before), -1)
  # A not-a-number compares false with everything and would rank first.
  valid = batch.mask & ~jnp.isnan(picked[..., 0])
  correct = (rank == 0) & valid
  confidence = jnp.exp(jnp.max(log_probs, -1))
  bins = jnp.clip((confidence * NUM_BINS).astype(jnp.int32), 0, NUM_BINS - 1)
  member = jax.nn.one_hot(bins, NUM_BINS, dtype=bool) & batch.mask[:, None]
  return Sums(
    count=jnp.sum(batch.mask, dtype=jnp.int32),
    correct=jnp.sum(correct, -1, dtype=jnp.int32),
    correct_top5=jnp.sum((rank < 5) & valid, -1, dtype=jnp.int32),
    cross_entropy=jnp.sum(jnp.where(batch.mask, -picked[..., 0], 0), -1),
    bin_count=jnp.sum(member, -2, dtype=jnp.int32),
    bin_confidence=jnp.sum(jnp.where(member, confidence[..., None], 0), -2),
    bin_correct=jnp.sum(member & correct[..., None], -2, dtype=jnp.int32),
  )


def diversity_sum(logits: Array, batch: Batch) -> Array:
  """Sum over examples of the mean distance between pairs of peers.

  Args:
    logits: [P, B, C]; fewer than two peers have no distance, and give 0.
    batch: mask.
  """
  if logits.shape[0] < 2:
    return jnp.zeros((), logits.dtype)
  return jnp.sum(jnp.where(batch.mask, losses.peer_diversity(logits), 0))


def total(parts: Iterable[Any]) -> Any:
  """Adds the sums of several batches, on the host, in float64 and int64.

  A collective where processes share the sums.
  """

  def wide(leaf):
    leaf = np.asarray(leaf)
    return leaf.astype(np.int64 if leaf.dtype.kind == "i" else np.float64)

  result = None
  for part in parts:
    part = jax.tree.map(wide, mesh.to_host(part))
    result = part if result is None else jax.tree.map(np.add, result, part)
  return result


def figures(part: Sums, prefix: str) -> dict[str, float]:
  """Names the measures of one prediction.

  Args:
    part: scalar sums, as from `total`.
    prefix: for example "leader".

  Returns:
    `prefix/accuracy`, `/accuracy_top5`, `/cross_entropy` (nats) and
    `/calibration_error`, the expected calibration error over 15 bins.
  """
  count = max(int(part.count), 1)
  gaps = np.abs(part.bin_correct - part.bin_confidence)
  return {
    f"{prefix}/accuracy": float(part.correct / count),
    f"{prefix}/accuracy_top5": float(part.correct_top5 / count),
    f"{prefix}/cross_entropy": float(part.cross_entropy / count),
    f"{prefix}/calibration_error": float(gaps.sum() / count),
  }
