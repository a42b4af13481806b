"""Measures of predictions against NumPy."""

import jax.numpy as jnp
import numpy as np

from okd_jax import core
from okd_jax.tasks import classification as metrics


def batch_of(labels, mask):
  size = len(labels)
  return core.Batch(
    image=jnp.zeros((size, 2, 2, 1), jnp.uint8),
    target=jnp.asarray(labels, jnp.int32),
    index=jnp.arange(size),
    mask=jnp.asarray(mask),
  )


def test_figures_match_numpy_and_leave_padding_out():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(3, 40, 7)) * 2
  labels = rng.integers(0, 7, 40)
  mask = np.arange(40) < 33
  sums = metrics.sums(jnp.asarray(logits, jnp.float32), batch_of(labels, mask))
  logits, labels = logits[:, :33], labels[:33]
  probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  for peer in range(3):
    part = metrics.total(
      [
        metrics.Sums(
          count=sums.count,
          correct=sums.correct[peer],
          correct_top5=sums.correct_top5[peer],
          cross_entropy=sums.cross_entropy[peer],
          bin_count=sums.bin_count[peer],
          bin_confidence=sums.bin_confidence[peer],
          bin_correct=sums.bin_correct[peer],
        )
      ]
    )
    figures = metrics.figures(part, "x")
    right = probs[peer].argmax(-1) == labels
    assert figures["x/accuracy"] == right.mean()
    order = np.argsort(-probs[peer], -1)[:, :5]
    top5 = (order == labels[:, None]).any(-1).mean()
    assert figures["x/accuracy_top5"] == top5
    nll = -np.log(probs[peer][np.arange(33), labels]).mean()
    np.testing.assert_allclose(figures["x/cross_entropy"], nll, rtol=1e-5)
    confidence = probs[peer].max(-1)
    error = 0.0
    for b in range(15):
      inside = (confidence >= b / 15) & (confidence < (b + 1) / 15)
      if inside.any():
        gap = abs(right[inside].mean() - confidence[inside].mean())
        error += inside.mean() * gap
    np.testing.assert_allclose(figures["x/calibration_error"], error, atol=1e-6)


def test_parts_add_up_to_the_whole():
  rng = np.random.default_rng(1)
  logits = jnp.asarray(rng.normal(size=(30, 4)), jnp.float32)
  labels = rng.integers(0, 4, 30)
  whole = metrics.total([metrics.sums(logits, batch_of(labels, [True] * 30))])
  parts = metrics.total(
    metrics.sums(
      logits[i : i + 7], batch_of(labels[i : i + 7], [True] * min(7, 30 - i))
    )
    for i in range(0, 30, 7)
  )
  assert whole.correct == parts.correct and whole.count == parts.count == 30
  np.testing.assert_allclose(
    whole.cross_entropy, parts.cross_entropy, rtol=1e-6
  )


def test_not_a_number_is_never_right():
  logits = jnp.full((4, 3), jnp.nan)
  part = metrics.sums(logits, batch_of([0, 0, 1, 2], [True] * 4))
  assert int(part.correct) == 0 and int(part.correct_top5) == 0


def test_diversity_of_one_peer_is_zero():
  logits = jnp.ones((1, 4, 3))
  assert (
    float(metrics.diversity_sum(logits, batch_of([0] * 4, [True] * 4))) == 0.0
  )
