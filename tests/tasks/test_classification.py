"""Measures of predictions against NumPy."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax import core, tasks
from okd_jax.data.augmentation import PLAIN
from okd_jax.errors import ConfigError
from okd_jax.tasks import classification
from okd_jax.tasks.asking import Question
from okd_jax.tasks.task import total

TASK = classification.Task(num_classes=7, image_shape=(2, 2, 1))


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
  sums = TASK.measure(jnp.asarray(logits, jnp.float32), batch_of(labels, mask))
  logits, labels = logits[:, :33], labels[:33]
  probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  for peer in range(3):
    part = total(
      [
        classification.Sums(
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
    figures = TASK.figures(part)
    right = probs[peer].argmax(-1) == labels
    assert figures["accuracy"] == right.mean()
    order = np.argsort(-probs[peer], -1)[:, :5]
    top5 = (order == labels[:, None]).any(-1).mean()
    assert figures["accuracy_top5"] == top5
    nll = -np.log(probs[peer][np.arange(33), labels]).mean()
    np.testing.assert_allclose(figures["cross_entropy"], nll, rtol=1e-5)
    confidence = probs[peer].max(-1)
    error = 0.0
    for b in range(15):
      inside = (confidence >= b / 15) & (confidence < (b + 1) / 15)
      if inside.any():
        gap = abs(right[inside].mean() - confidence[inside].mean())
        error += inside.mean() * gap
    np.testing.assert_allclose(figures["calibration_error"], error, atol=1e-6)


def test_parts_add_up_to_the_whole():
  rng = np.random.default_rng(1)
  logits = jnp.asarray(rng.normal(size=(30, 4)), jnp.float32)
  labels = rng.integers(0, 4, 30)
  measure = jax.jit(TASK.measure)
  whole = total([measure(logits, batch_of(labels, [True] * 30))])
  parts = total(
    measure(
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
  part = TASK.measure(logits, batch_of([0, 0, 1, 2], [True] * 4))
  assert int(part.correct) == 0 and int(part.correct_top5) == 0


def test_diversity_of_one_peer_is_zero():
  logits = jnp.ones((1, 4, 3))
  assert float(TASK.diversity_sum(logits, batch_of([0] * 4, [True] * 4))) == 0.0


def test_soft_targets_are_measured_by_their_most_probable_class():
  rng = np.random.default_rng(2)
  logits = jnp.asarray(rng.normal(size=(2, 12, 7)), jnp.float32)
  labels = rng.integers(0, 7, 12)
  hard = batch_of(labels, [True] * 12)
  one_hot = dataclasses.replace(hard, target=jnp.eye(7)[labels])
  measure = jax.jit(TASK.measure)
  ours, theirs = measure(logits, one_hot), measure(logits, hard)
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)
  np.testing.assert_array_equal(
    TASK.headline_in_step(logits, one_hot), TASK.headline_in_step(logits, hard)
  )
  soft = rng.dirichlet(np.ones(7), 12)
  part = measure(logits[0], dataclasses.replace(hard, target=jnp.asarray(soft)))
  scores = np.asarray(logits[0], np.float64)
  log_probs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
  assert int(part.correct) == np.sum(scores.argmax(-1) == soft.argmax(-1))
  np.testing.assert_allclose(
    part.cross_entropy, -np.sum(soft * log_probs), rtol=1e-5
  )


def test_classes_without_probability_do_not_count_however_unlikely():
  logits = jnp.array([[0.0, -jnp.inf]])
  target = jnp.array([[1.0, 0.0]])
  batch = dataclasses.replace(batch_of([0], [True]), target=target)
  assert float(TASK.measure(logits, batch).cross_entropy) == 0.0


def test_batches_of_ones_own_are_taken_as_they_are():
  images = np.random.default_rng(0).normal(size=(3, 2, 2, 1))
  batch = dataclasses.replace(batch_of([0, 1, 2], [True] * 3), image=images)
  for made in (
    TASK.augment(batch, jax.random.key(0), num_views=None, mesh=None),
    TASK.normalize(batch),
  ):
    np.testing.assert_array_equal(made.image, images.astype(np.float32))


def test_weights_have_to_be_one_a_class():
  # Labels beyond the last one would take that of the last, without a word.
  with pytest.raises(ConfigError, match="has 2 numbers, and the data have 5"):
    classification.Task(5, (4, 4, 1), class_weights=(1.0, 2.0))


def test_weights_of_soft_targets_are_not_rounded_on_accelerators():
  task = classification.Task(3, (2, 2, 1), class_weights=(1.0, 2.0, 4.0))
  batch = batch_of([0, 1], [True, True])
  soft = jnp.array([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]])
  weights = jax.jit(
    lambda target: task.weights(dataclasses.replace(batch, target=target))
  )
  np.testing.assert_allclose(weights(soft), [1.5, 3.5], rtol=1e-6)
  program = weights.lower(soft).as_text()
  (product,) = [row for row in program.splitlines() if "dot_general" in row]
  assert "[HIGHEST, HIGHEST]" in product


def test_an_augmentation_without_facts_about_the_data_is_refused():
  how = dataclasses.replace(PLAIN, mixup=0.2)
  with pytest.raises(ConfigError, match="mixup=0.2.*give `info`, or augment"):
    dataclasses.replace(TASK, augmentation=how)


def test_answers_name_the_most_probable_classes():
  card = {"classes": ["cat", "dog", "owl"]}
  asking = TASK.asking(card, top=2)
  asked = Question(Path("a.png"), np.zeros((1, 4, 4, 1)))
  answer = asking.answer(asked, np.array([[0.0, 2.0, 1.0]]))
  assert [guess["class"] for guess in answer] == ["dog", "owl"]
  probs = np.exp([2.0, 1.0]) / np.exp([0.0, 2.0, 1.0]).sum()
  np.testing.assert_allclose(
    [guess["probability"] for guess in answer], probs, rtol=1e-6
  )
  assert asking.cells(answer)[0][0] == f"dog {100 * probs[0]:.2f} %"


def test_an_unknown_task_is_refused_by_name():
  with pytest.raises(ConfigError, match="'ranking'.*classification"):
    tasks.load("ranking")
  assert tasks.load("classification") is classification.Task
