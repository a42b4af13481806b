"""Labels out of range, masked classes, and what errors say."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

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


@pytest.mark.parametrize("temperature", [np.ones(B), np.ones(P + 4)])
def test_a_temperature_of_a_wrong_shape_is_refused(temperature):
  with pytest.raises(
    ValueError, match=r"^kd: temperature must be .*float64 \["
  ):
    losses.kd(LOGITS, LOGITS[0], LABELS, temperature=temperature)
  with pytest.raises(
    ValueError, match=r"^softened_kl: temperature must .*\[3\]"
  ):
    jax.eval_shape(
      lambda t: losses.softened_kl(LOGITS, LOGITS, temperature=t), np.ones(P)
    )


@pytest.mark.parametrize("weight", [np.ones(7), np.ones((2, 1, 1)), None])
def test_a_weight_that_is_no_number_is_refused(weight):
  with pytest.raises(
    ValueError, match="^dml: kd_weight must be a number; got "
  ):
    losses.dml(LOGITS, LABELS, kd_weight=weight)
  with pytest.raises(ValueError, match="^scale_gradient: scale must be a numb"):
    jax.grad(lambda x: losses.scale_gradient(x, weight))(1.0)


@pytest.mark.parametrize("weight", [np.nan, np.inf, jnp.array(-np.inf)])
def test_a_weight_that_is_not_finite_is_refused(weight):
  with pytest.raises(
    ValueError, match=f"^dml: kd_weight must be a finite number; got {weight}"
  ):
    losses.dml(LOGITS, LABELS, kd_weight=weight)


@pytest.mark.parametrize(
  ("labels", "got"),
  [(None, "None"), ([[1], [2, 3]], r"\[\[1\], \[2, 3\]\]"), (1.5, "1.5")],
)
def test_labels_that_are_no_array_are_told_as_given(labels, got):
  for loss in (losses.dml, lambda z, y: losses.mcl(z, z[..., :2], y)):
    with pytest.raises(ValueError, match=f"labels must be .*; got {got}"):
      loss(LOGITS, labels)


NOBODY, GATE = LOGITS[:0], np.zeros((0, B))


@pytest.mark.parametrize(
  "call",
  [
    lambda: losses.ffl(NOBODY, LOGITS[0], LABELS),
    lambda: losses.one(NOBODY, GATE, LABELS),
    lambda: losses.okddip(NOBODY, None, NOBODY, NOBODY, LABELS),
    lambda: losses.kdcl_naive_target(NOBODY, LABELS),
    lambda: losses.kdcl_linear_target(NOBODY, LABELS),
    lambda: losses.kdcl_minlogit_target(NOBODY, LABELS),
    lambda: losses.kdcl_general_weights(NOBODY, LABELS),
    lambda: losses.kdcl_general_target(NOBODY, np.ones(0)),
  ],
)
def test_a_group_of_nobody_is_refused(call):
  with pytest.raises(
    ValueError, match=r"at least 1 peer on axis 0; got .*\[0, "
  ):
    call()


@pytest.mark.parametrize(
  ("call", "axis"),
  [
    (
      lambda: losses.softened_kl(np.ones((3, 0)), np.ones(0), temperature=2.0),
      "C",
    ),
    (
      lambda: losses.okddip(
        LOGITS[..., :0], LOGITS[0, :, :0], FEATURES, FEATURES, LABELS
      ),
      "C",
    ),
    (lambda: losses.diverse_attention(*np.ones((2, 4, 2, 0, 3))), "W"),
    (lambda: losses.attention_distance(*np.ones((2, 4, 2, 2, 0))), "D"),
    (
      lambda: losses.attention_distance(
        np.ones((4, 2, 2, 3)), np.ones((4, 2, 2, 0))
      ),
      "D'",
    ),
  ],
)
def test_no_classes_positions_or_channels_are_refused(call, axis):
  with pytest.raises(ValueError, match=rf" with {axis} of at least 1; got "):
    call()


NONE, MAPS = LOGITS[:, :0], np.ones((P, 0, 2, 2, 3))
EMBEDDINGS, NO_LABELS = FEATURES[:, :0], LABELS[:0]


@pytest.mark.parametrize(
  "call",
  [
    lambda: losses.softened_kl(NONE, NONE, temperature=2.0),
    lambda: losses.dml(NONE, NO_LABELS),
    lambda: losses.kdcl(
      NONE, losses.kdcl_linear_target(NONE, NO_LABELS), NO_LABELS
    ),
    lambda: losses.kdcl(
      NONE,
      losses.kdcl_linear_target(NONE, NO_LABELS, scope="batch"),
      NO_LABELS,
    ),
    lambda: losses.okddip(NONE, NONE[0], EMBEDDINGS, EMBEDDINGS, NO_LABELS),
    lambda: losses.one(NONE, NONE[..., 0], NO_LABELS),
    lambda: losses.pcl(NONE, NONE[0], NONE, NO_LABELS),
    lambda: losses.ffl(NONE, NONE[0], NO_LABELS),
    lambda: losses.mcl(NONE, EMBEDDINGS, NO_LABELS, logit_kd="all"),
    lambda: losses.supervised_nce(np.ones((P, 0, 0)), NO_LABELS),
    lambda: losses.mcl_okd(
      NONE,
      EMBEDDINGS,
      EMBEDDINGS,
      np.ones((P, 0, 5, 3)),
      NO_LABELS,
      num_examples=9,
    ),
    lambda: losses.heatmap_kl(MAPS[0], MAPS[0], MAPS[0, :, 0, 0]),
    lambda: losses.heatmap_mse(MAPS[0], MAPS[0], MAPS[0, :, 0, 0]),
    lambda: losses.map_distance(MAPS, MAPS),
    lambda: losses.attention_distance(MAPS, MAPS),
    lambda: losses.diverse_attention(MAPS, MAPS),
    lambda: losses.peer_diversity(NONE),
  ],
)
def test_no_examples_have_no_losses(call):
  terms = jax.tree.leaves(call())
  assert terms
  assert all(0 in term.shape for term in terms)


@pytest.mark.parametrize("dtype", [jnp.float8_e4m3fn, jnp.float8_e5m2])
def test_narrow_floats_are_computed_in_float32(dtype):
  logits = jnp.asarray(LOGITS, dtype)
  term = losses.cross_entropy(logits, LABELS)
  assert term.dtype == jnp.float32
  wide = losses.cross_entropy(logits.astype(jnp.float32), LABELS)
  np.testing.assert_array_equal(term, wide)


def test_an_unhashable_choice_is_refused():
  with pytest.raises(
    ValueError, match=r"^okddip: aggregate must .*\['logits'\]"
  ):
    losses.okddip(
      LOGITS, None, FEATURES, FEATURES, LABELS, aggregate=["logits"]
    )


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
  weights = {"hint_weight": 1.0, "attention_weight": 1.0}
  terms = {
    "ctkd": losses.ctkd(logits[1], mean, LABELS, [], [], **weights),
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


@golden.jit_once
def means_of_others(values, teachers):
  terms = losses.pcl(LOGITS, LOGITS[0], teachers, LABELS)
  return losses.leave_one_out_mean(values), terms["mean_teacher_kd"][0]


@pytest.mark.parametrize("own", [np.nan, np.inf, -np.inf])
def test_what_is_left_out_does_not_count(own):
  teachers, known = LOGITS.copy(), np.array([[5.0], [1.0], [3.0]])
  _, expected = means_of_others(known, teachers)
  teachers[0] = known[0] = own
  others, from_teachers = means_of_others(known, teachers)
  np.testing.assert_array_equal(others, [[2.0], [own], [own]])
  np.testing.assert_array_equal(from_teachers, expected)


def test_other_peers_keep_what_is_not_finite():
  values = np.array([[np.inf], [np.nan], [-np.inf], [1.0]])
  others = losses.leave_one_out_mean(values)[:, 0]
  np.testing.assert_array_equal(others, [-np.inf, -np.inf, np.nan, -np.inf])


@pytest.mark.parametrize("eps", [0.0, 1e-7])
@pytest.mark.parametrize("all_of", [-np.inf, np.inf])
def test_a_row_without_any_class_is_no_number(all_of, eps):
  rows = np.array([[all_of] * 3, [0.0, 1.0, -np.inf]], np.float32)
  found = losses.softened_kl(rows, rows, temperature=2.0, eps=eps)
  assert np.isnan(found[0]) and abs(found[1]) < 1e-5


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


@pytest.mark.parametrize(
  ("label", "expected"),
  [
    (np.array([1]), np.log(2)),
    (np.array([[0, 0.5, 0.5]]), np.log(2)),
    (np.array([0]), np.inf),
    (np.array([[0.5, 0.5, 0]]), np.inf),
  ],
)
def test_a_masked_class_is_infinitely_wrong_as_a_label_alone(label, expected):
  logits = np.array([[-np.inf, 0, 0]])
  value, grad = jax.value_and_grad(lambda z: losses.cross_entropy(z, label)[0])(
    logits
  )
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  if expected < np.inf:
    assert np.isfinite(grad).all()


def test_a_class_that_the_teacher_alone_masks_has_the_target_zero():
  teacher = LOGITS.copy()
  teacher[..., KEPT:] = -np.inf
  p = special.softmax(teacher[..., :KEPT] / 2, -1)
  log_q = special.log_softmax(LOGITS / 2, -1)[..., :KEPT]
  for loss, expected in (
    (losses.softened_kl, 4 * np.sum(p * (np.log(p) - log_q), -1)),
    (losses.softened_cross_entropy, -4 * np.sum(p * log_q, -1)),
  ):
    found = loss(LOGITS, teacher, temperature=2.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_masked_classes_add_nothing_to_cross_entropies_of_teachers():
  masked, student = LOGITS[:2].copy(), LOGITS[0].copy()
  masked[..., KEPT:] = student[..., KEPT:] = -np.inf
  loss = jax.jit(
    jax.value_and_grad(
      lambda s, t: jnp.sum(losses.softened_cross_entropy(s, t, temperature=2.0))
    )
  )
  value, grad = loss(*masked)
  expected, few_grad = loss(*masked[..., :KEPT])
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(grad[:, :KEPT], few_grad, rtol=1e-6)
  value, grad = loss(student, LOGITS[1])
  assert np.isposinf(value) and np.isfinite(grad).all()


def test_a_temperature_learns_from_the_other_classes():
  masked = np.stack([LOGITS, LOGITS[::-1]])
  masked[..., KEPT:] = -np.inf
  slope = jax.jit(
    jax.grad(lambda t, x: jnp.sum(losses.softened_kl(*x, temperature=t)))
  )
  found, expected = slope(2.0, masked), slope(2.0, masked[..., :KEPT])
  np.testing.assert_allclose(found, expected, rtol=1e-5)
