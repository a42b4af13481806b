"""KDCL's linear target against independent optimisers."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from okd_jax import losses

TOLERANCE = 1e-4


def draw(num_peers, num_classes, scale, num_examples=64):
  """Logits that float32 holds exactly, some peers alike, and labels."""
  rng = np.random.default_rng(num_peers)
  logits = scale * rng.normal(size=(num_peers, num_examples, num_classes))
  logits[1, :4] = logits[0, :4]
  logits[:, 4] = logits[0, 4]
  labels = rng.integers(num_classes, size=num_examples)
  return logits.astype(np.float32).astype(np.float64), labels


@functools.cache
def solver(enable_x64, scope):
  del enable_x64
  return jax.jit(functools.partial(losses.kdcl_linear_target, scope=scope))


def target(logits, labels, dtype, scope="sample"):
  enable_x64 = dtype == np.float64
  with jax.enable_x64(enable_x64):
    result = solver(enable_x64, scope)(logits.astype(dtype), labels)
    assert result.dtype == dtype
    return np.asarray(result, np.float64)


def cross_entropy(logits, labels):
  true = np.take_along_axis(logits, labels[:, None], -1)[:, 0]
  return special.logsumexp(logits, axis=-1) - true


def bisect(logits, label):
  """Two peers: the slope of the cross-entropy rises along the segment."""

  def slope(weight):
    mixed = weight * logits[0] + (1 - weight) * logits[1]
    probs = special.softmax(mixed)
    probs[label] -= 1
    return probs @ (logits[0] - logits[1])

  if slope(0.0) >= 0:
    weight = 0.0
  elif slope(1.0) <= 0:
    weight = 1.0
  else:
    weight = optimize.brentq(slope, 0.0, 1.0, xtol=1e-15, rtol=1e-14)
  return weight * logits[0] + (1 - weight) * logits[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [0.01, 1.0, 4.0])
def test_two_peers_agree_with_root_finding(scale, dtype):
  logits, labels = draw(2, 5, scale)
  expected = [
    bisect(logits[:, example], label) for example, label in enumerate(labels)
  ]
  np.testing.assert_allclose(
    target(logits, labels, dtype), expected, rtol=0, atol=TOLERANCE
  )


def best_on_any_face(logits, label):
  """Newton's method on every face of the simplex; the best feasible point."""
  num_peers = len(logits)
  gaps = np.delete(logits - logits[:, label, None], label, axis=1)
  best, best_value = None, np.inf
  for size in range(1, num_peers + 1):
    for face in itertools.combinations(range(num_peers), size):
      weights = _newton_on_face(gaps[list(face)])
      value = special.logsumexp(weights @ gaps[list(face)])
      if weights.min() >= 0 and value < best_value - 1e-13:
        best, best_value = weights @ logits[list(face)], value
  return best


def _newton_on_face(gaps):
  weights = np.full(len(gaps), 1 / len(gaps))
  for _ in range(100):
    probs = special.softmax(weights @ gaps)
    mean = gaps @ probs
    centred = gaps - mean[:, None]
    system = np.ones((len(gaps) + 1,) * 2)
    system[-1, -1] = 0
    system[:-1, :-1] = (centred * probs) @ centred.T
    move = np.linalg.lstsq(system, np.append(-mean, 0), rcond=1e-13)[0][:-1]
    # Halved until the value does not rise, so that it cannot diverge.
    value, step = special.logsumexp(weights @ gaps), 1.0
    while (
      special.logsumexp((weights + step * move) @ gaps) > value and step > 1e-12
    ):
      step /= 2
    weights = weights + step * move
    if np.abs(step * move).max() < 1e-13 or np.abs(weights).max() > 1e6:
      break
  return weights


@pytest.mark.parametrize("num_peers, num_classes", [(3, 4), (4, 10)])
def test_more_peers_agree_with_enumeration(num_peers, num_classes):
  logits, labels = draw(num_peers, num_classes, 3.0, num_examples=12)
  expected = np.stack(
    [
      best_on_any_face(logits[:, example], label)
      for example, label in enumerate(labels)
    ]
  )
  for dtype in (np.float32, np.float64):
    np.testing.assert_allclose(
      target(logits, labels, dtype), expected, rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize("scale", [0.01, 3.0, 30.0, 1000.0])
@pytest.mark.parametrize("num_peers, num_classes", [(3, 2), (8, 10)])
def test_no_direction_improves(num_peers, num_classes, scale):
  """The gap to the optimum, in float64, is at most rounding.

  For a convex function, value - optimum <= slope towards the best vertex.
  """
  logits, labels = draw(num_peers, num_classes, scale)
  mixed = target(logits, labels, np.float64)
  probs = special.softmax(mixed, axis=-1)
  np.put_along_axis(
    probs,
    labels[:, None],
    np.take_along_axis(probs, labels[:, None], -1) - 1,
    -1,
  )
  slopes = np.einsum("bc,pbc->pb", probs, logits)
  gap = np.einsum("bc,bc->b", probs, mixed) - slopes.min(axis=0)
  assert gap.max() < 1e-9 * scale
  best_peer = np.min([cross_entropy(z, labels) for z in logits], axis=0)
  assert (cross_entropy(mixed, labels) <= best_peer + 1e-9).all()


@pytest.mark.parametrize("scale", [0.01, 3.0, 30.0, 1000.0])
@pytest.mark.parametrize("num_peers, num_classes", [(3, 2), (8, 10)])
def test_no_direction_improves_common_weights(num_peers, num_classes, scale):
  logits, labels = draw(num_peers, num_classes, scale)
  mixed = target(logits, labels, np.float64, "batch")
  probs = special.softmax(mixed, axis=-1) - np.eye(num_classes)[labels]
  slopes = np.einsum("bc,pbc->p", probs, logits) / len(labels)
  gap = np.einsum("bc,bc->", probs, mixed) / len(labels) - slopes.min()
  assert gap < 1e-9 * scale
  # The weights are common to all examples, and a convex combination.
  rows = np.moveaxis(logits, 0, -1).reshape(-1, num_peers)
  weights, *_ = np.linalg.lstsq(rows, mixed.ravel(), rcond=None)
  np.testing.assert_allclose(rows @ weights, mixed.ravel(), atol=1e-8 * scale)
  assert weights.min() > -1e-8 and abs(weights.sum() - 1) < 1e-8
  single = target(logits.astype(np.float64), labels, np.float32, "batch")
  value = cross_entropy(single, labels).mean()
  assert value <= cross_entropy(mixed, labels).mean() + 1e-5 * scale


def test_one_example_has_the_same_weights_in_both_scopes():
  logits, labels = draw(4, 6, 3.0)
  for i in range(8):
    one = slice(i, i + 1)
    np.testing.assert_allclose(
      target(logits[:, one], labels[one], np.float64, "batch"),
      target(logits[:, one], labels[one], np.float64),
      atol=1e-7,
    )


def test_common_weights_leave_masked_classes_out():
  logits, labels = draw(3, 5, 2.0, num_examples=8)
  masked = np.insert(logits, 2, -np.inf, axis=-1)
  np.testing.assert_allclose(
    target(masked, labels + (labels >= 2), np.float64, "batch"),
    np.insert(target(logits, labels, np.float64, "batch"), 2, -np.inf, axis=-1),
    atol=1e-9,
  )


def test_unknown_scope_is_refused():
  logits, labels = draw(2, 3, 1.0)
  with pytest.raises(ValueError, match="scope.*'sample' or 'batch'.*'epoch'"):
    losses.kdcl_linear_target(logits, labels, scope="epoch")


@pytest.mark.parametrize("num_peers, num_classes", [(2, 3), (8, 10)])
def test_float32_agrees_with_float64(num_peers, num_classes):
  logits, labels = draw(num_peers, num_classes, 10.0)
  np.testing.assert_allclose(
    target(logits, labels, np.float32),
    target(logits, labels, np.float64),
    rtol=0,
    atol=TOLERANCE,
  )


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e4])
def test_extreme_logits_stay_finite_in_float32(scale):
  logits, labels = draw(4, 6, scale)
  assert np.isfinite(target(logits, labels, np.float32)).all()


def test_sure_and_right_peers_still_have_an_optimum():
  # Cross-entropy is below 1e-30 everywhere: flat in float32.
  logits = np.array([[[90.0, 0.0, 9.0]], [[90.0, 9.0, 0.0]]])
  labels = np.array([0])
  np.testing.assert_allclose(
    target(logits, labels, np.float32), [[90.0, 4.5, 4.5]], atol=TOLERANCE
  )


def test_one_peer_is_its_own_target():
  logits = np.array([[[0.5, -1.0, 2.0]]])
  np.testing.assert_allclose(
    target(logits, np.array([2]), np.float32), logits[0], atol=1e-6
  )


def test_no_gradient_passes():
  logits, labels = draw(3, 4, 1.0, num_examples=5)
  grad = jax.jit(
    jax.grad(lambda x: jnp.sum(losses.kdcl_linear_target(x, labels)))
  )
  assert not grad(logits.astype(np.float32)).any()
