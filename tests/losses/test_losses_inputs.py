"""Labels out of range, masked classes, and what errors say."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax import losses

P, B, C, KEPT = 3, 4, 6, 4
RNG = np.random.default_rng(0)
LOGITS, FEATURES = RNG.normal(size=(P, B, C)), RNG.normal(size=(P, B, 3))
LABELS = RNG.integers(KEPT, size=B)
KDCL_RULES = ("naive", "linear", "minlogit")


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


@pytest.mark.parametrize(
  "temperature", [None, "3", True, np.nan, 0.0, np.array([1.0, -2.0])]
)
def test_a_temperature_that_is_no_positive_number_is_refused(temperature):
  expected = "^kd: temperature must be a positive number; got "
  with pytest.raises(ValueError, match=expected):
    losses.kd(LOGITS, LOGITS[0], LABELS, temperature=temperature)


@pytest.mark.parametrize("label", [-1, C, 2**33])
@pytest.mark.parametrize("enable_x64", [False, True])
def test_an_index_out_of_range_is_refused_by_name(label, enable_x64):
  with jax.enable_x64(enable_x64):
    with pytest.raises(ValueError, match=rf"^dml: .* \[0, 6\); got {label}$"):
      losses.dml(LOGITS, np.full(B, label))


def test_an_index_out_of_range_in_a_program_gives_nan():
  @golden.jit_once
  def run(labels):
    def total(logits):
      term = losses.cross_entropy(logits, labels)
      return jnp.sum(term), term

    targets = [
      getattr(losses, f"kdcl_{rule}_target")(LOGITS, labels)
      for rule in KDCL_RULES
    ]
    weights = losses.kdcl_general_weights(jax.nn.softmax(LOGITS), labels)
    return jax.grad(total, has_aux=True)(LOGITS), targets, weights

  labels = np.array([-1, C, 2**33, 0])
  (grad, term), targets, weights = run(labels)
  assert (np.isnan(term) == [True, True, True, False]).all()
  assert np.isnan(grad[:, :3]).all() and np.isfinite(grad[:, 3]).all()
  assert np.isnan(weights).all()
  for target in targets:
    assert np.isnan(target[:3]).all() and np.isfinite(target[3]).all()


def test_errors_say_what_came_and_what_was_expected():
  with pytest.raises(AssertionError) as error:
    losses.dml(LOGITS, np.zeros(B, np.float32))
  assert str(error.value) == (
    "dml: labels must be integer [B] or float [B, C]; got float32 [4] with "
    "logits float64 [3, 4, 6]"
  )
  with pytest.raises(AssertionError) as error:
    losses.okddip(LOGITS, None, FEATURES, FEATURES[..., :2], LABELS)
  assert str(error.value) == (
    "okddip: keys must be float [K, B, E]; got float64 [3, 4, 2] with K = 3, "
    "B = 4, E = 3"
  )


def everything(logits, features):
  """Every objective, of logits whose classes may be masked."""
  gate = jax.nn.softmax(features[..., 0], axis=0)
  mean = logits[0]
  terms = {
    "okddip": losses.okddip(logits, mean, features, features[::-1], LABELS),
    "okddip_probs": losses.okddip(
      logits, mean, features, features[::-1], LABELS, aggregate="probs"
    ),
    "dml": losses.dml(logits, LABELS),
    "cl_ilr": losses.cl_ilr(logits, LABELS),
    "one": losses.one(logits, gate, LABELS),
    "pcl": losses.pcl(logits, mean, logits, LABELS),
    "ffl": losses.ffl(logits, mean, LABELS, eps=1e-7),
    "kd": losses.kd(logits, logits[1], LABELS),
  }
  for rule in KDCL_RULES:
    target = getattr(losses, f"kdcl_{rule}_target")(logits, LABELS)
    terms[rule] = losses.kdcl(logits, target, LABELS)
  return terms


@golden.jit_once
def everything_with_gradients(logits, features):
  def total(logits, features):
    terms = everything(logits, features)
    return sum(map(jnp.sum, jax.tree.leaves(terms))), terms

  return jax.grad(total, (0, 1), has_aux=True)(logits, features)


def test_masked_classes_take_no_part():
  masked = LOGITS.copy()
  masked[..., KEPT:] = -np.inf
  (grad, features), terms = everything_with_gradients(masked, FEATURES)
  (few_grad, few_features), few = everything_with_gradients(
    LOGITS[..., :KEPT], FEATURES
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12),
    (terms, grad[..., :KEPT], features),
    (few, few_grad, few_features),
  )
  assert not grad[..., KEPT:].any()


def test_a_class_that_the_student_alone_masks_is_infinitely_wrong():
  student = LOGITS.copy()
  student[..., -1] = -np.inf

  @golden.jit_once
  def run(s):
    kl = losses.softened_kl(s, LOGITS, temperature=2.0, eps=1e-7)
    grad = jax.grad(
      lambda s: jnp.sum(losses.softened_kl(s, LOGITS, temperature=2.0))
    )(s)
    return kl, grad

  kl, grad = run(student)
  assert np.isposinf(kl).all()
  assert np.isfinite(grad).all()
