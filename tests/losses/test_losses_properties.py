"""Precision, variants and algebraic properties of the losses."""

import functools

import chex
import golden
from hypothesis import given, settings, strategies as st
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest
from scipy import special

from okd_jax import core, losses

EPS = 1e-7
TEMPERATURES = (0.05, 1.0, 3.0, 20.0)
# Wide enough for every property, small enough to compile once.
SHAPE = (3, 4, 5)


def draw(seed, shape=SHAPE, scale=2.0):
  rng = np.random.default_rng(seed)
  return (scale * rng.normal(size=shape)).astype(np.float32)


def numpy_softened_kl(student, teacher, temperature, eps=0.0):
  """The textbook sum in float64."""
  student, teacher = (
    np.asarray(x, np.float64) / temperature for x in (student, teacher)
  )
  log_probs = special.log_softmax(student, -1)
  if eps == 0:
    log_target = special.log_softmax(teacher, -1)
    target = np.exp(log_target)
  else:
    target = special.softmax(teacher, -1) + eps
    log_target = np.log(target)
  return temperature**2 * np.sum(target * (log_target - log_probs), -1)


@functools.partial(jax.jit, static_argnames="eps")
def kl(student, teacher, temperature, eps=0.0):
  return losses.softened_kl(student, teacher, temperature=temperature, eps=eps)


@functools.partial(jax.jit, static_argnames="eps")
def kl_grads(student, teacher, temperature, eps=0.0):
  def total(student, teacher):
    return jnp.sum(
      losses.softened_kl(student, teacher, temperature=temperature, eps=eps)
    )

  return jax.grad(total, argnums=(0, 1))(student, teacher)


@pytest.mark.checklist("E2")
class SoftenedKlTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_matches_numpy(self):
    student, teacher = draw(0), draw(1)
    for eps in (0.0, EPS):
      function = self.variant(
        functools.partial(losses.softened_kl, temperature=3.0, eps=eps)
      )
      np.testing.assert_allclose(
        function(student, teacher),
        numpy_softened_kl(student, teacher, 3.0, eps),
        rtol=1e-5,
      )

  @chex.variants(with_jit=True, without_jit=True)
  def test_identical_logits_give_exactly_zero(self):
    function = self.variant(
      functools.partial(losses.softened_kl, temperature=3.0)
    )
    for shape, dtype in (((4, 10), jnp.float32), ((2, 1000), jnp.bfloat16)):
      logits = jnp.asarray(draw(0, shape, scale=5.0), dtype)
      # Stacked, so that the compiler cannot see that both are equal.
      value = function(jnp.stack([logits] * 3), logits)
      assert value.dtype == jnp.float32
      assert not value.any()


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.checklist("E2")
def test_close_predictions_keep_their_small_divergence(temperature):
  teacher = draw(0, (8, 100), scale=3.0)
  student = (teacher + draw(1, (8, 100), scale=1e-3)).astype(np.float32)
  value = kl(student, teacher, temperature)
  assert (value >= 0).all()
  np.testing.assert_allclose(
    value, numpy_softened_kl(student, teacher, temperature), rtol=5e-3
  )


@pytest.mark.parametrize("eps", [0.0, EPS])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.checklist("E2")
def test_extreme_logits(temperature, eps):
  student, teacher = draw(0, (8, 10), 1.0), draw(1, (8, 10), 1.0)
  student, teacher = 1e4 * np.sign(student), 1e4 * np.sign(teacher)
  np.testing.assert_allclose(
    kl(student, teacher, temperature, eps),
    numpy_softened_kl(student, teacher, temperature, eps),
    rtol=1e-5,
    atol=1e-5,
  )
  for grad in kl_grads(student, teacher, temperature, eps):
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("distance", [0.0, 1e-4, 1.0])
@pytest.mark.checklist("E2")
def test_eps_survives_float32(temperature, distance):
  teacher = draw(0, (8, 100), scale=3.0)
  student = (teacher + draw(1, (8, 100), scale=distance)).astype(np.float32)
  value = kl(student, teacher, temperature, EPS)
  expected = numpy_softened_kl(student, teacher, temperature, EPS)
  np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
  for grad in kl_grads(student, teacher, temperature, EPS):
    assert np.isfinite(grad).all()


@pytest.mark.checklist("E2")
def test_gradients_of_the_divergence():
  with jax.enable_x64(True):
    student, teacher = draw(0).astype(float), draw(1).astype(float)
    for eps in (0.0, 1e-3):
      check_grads(
        functools.partial(kl, eps=eps),
        (student, teacher, 2.0),
        order=1,
        modes=("rev",),
      )


def test_curvature_at_identical_logits_is_the_fisher_information():
  with jax.enable_x64(True):
    logits = np.array([0.3, -1.0, 2.0])
    probs = special.softmax(logits / 2.0)
    hessian = jax.jit(
      jax.hessian(lambda s: losses.softened_kl(s, logits, temperature=2.0))
    )
    golden.assert_grad(hessian(logits), np.diag(probs) - np.outer(probs, probs))


def test_temperature_may_differ_between_examples():
  student, teacher = draw(0), draw(1)
  temperatures = np.array([0.5, 1.0, 3.0, 10.0], np.float32)
  expected = np.stack(
    [
      numpy_softened_kl(student[:, b], teacher[:, b], temperature)
      for b, temperature in enumerate(temperatures)
    ],
    axis=1,
  )
  np.testing.assert_allclose(
    kl(student, teacher, temperatures), expected, rtol=1e-5
  )


def test_leading_axes_equal_vmap():
  student, teacher, labels = draw(0), draw(1), np.array([0, 4, 2, 1])
  np.testing.assert_allclose(
    kl(student, teacher[0], 3.0, EPS),
    jax.vmap(lambda s: kl(s, teacher[0], 3.0, EPS))(student),
    rtol=1e-6,
  )
  np.testing.assert_allclose(
    losses.cross_entropy(student, labels),
    jax.vmap(losses.cross_entropy, (0, None))(student, labels),
    rtol=1e-6,
  )


def test_cross_entropy_matches_numpy():
  logits, labels = draw(0), np.array([0, 4, 2, 1])
  expected = -special.log_softmax(logits.astype(float), -1)
  np.testing.assert_allclose(
    losses.cross_entropy(logits, labels),
    expected[:, np.arange(4), labels],
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    losses.cross_entropy(logits, np.broadcast_to(labels, (3, 4))),
    expected[:, np.arange(4), labels],
    rtol=1e-5,
  )


def test_peer_functions_match_numpy():
  queries, keys, values = draw(0), draw(1), draw(2)
  weights = special.softmax(np.einsum("pbe,qbe->pbq", queries, keys), -1)
  np.testing.assert_allclose(
    losses.peer_attention(queries, keys), weights, rtol=1e-5
  )
  np.testing.assert_allclose(
    losses.mix_peers(weights, values),
    np.einsum("pbq,qbc->pbc", weights, values),
    rtol=1e-4,
    atol=1e-6,
  )
  np.testing.assert_allclose(
    losses.leave_one_out_mean(values)[1], (values[0] + values[2]) / 2, rtol=1e-6
  )


def test_scale_gradient_is_the_identity_forward():
  x = draw(0)
  for scale in (0.25, jnp.float32(0.25)):
    scaled = functools.partial(losses.scale_gradient, scale=scale)
    value, pullback = jax.vjp(scaled, x)
    np.testing.assert_array_equal(value, x)
    np.testing.assert_array_equal(pullback(x)[0], 0.25 * x)
    np.testing.assert_array_equal(jax.jvp(scaled, (x,), (x,))[1], 0.25 * x)


LABELS = np.array([0, 4, 2, 1])
GATE = special.softmax(draw(9, (3, 4)), 0).astype(np.float32)
# Every objective with peers on axis 0, as a function of logits alone.
OBJECTIVES = {
  "okddip": lambda z: losses.okddip(z, z[0], z, z[:, ::-1], LABELS),
  "okddip_probs": lambda z: losses.okddip(
    z, z[0], z, z[:, ::-1], LABELS, aggregate="probs"
  ),
  "kd": lambda z: losses.kd(z, z[0], LABELS),
  "dml": lambda z: losses.dml(z, LABELS),
  "dml_ensemble": lambda z: losses.dml_ensemble(z, LABELS),
  "cl_ilr": lambda z: losses.cl_ilr(z, LABELS),
  "one": lambda z: losses.one(z, GATE, LABELS),
  "pcl": lambda z: losses.pcl(z, z[0], z, LABELS),
  "ffl": lambda z: losses.ffl(z, z[0], LABELS),
  "kdcl": lambda z: losses.kdcl(z, z[0], LABELS),
}
EVERY_OBJECTIVE = pytest.mark.parametrize("name", OBJECTIVES)


@functools.cache
def terms_and_grad(name):
  def loss(logits):
    terms = OBJECTIVES[name](logits)
    return core.objective(terms), terms

  return golden.jit_once(jax.grad(loss, has_aux=True))


@EVERY_OBJECTIVE
@pytest.mark.checklist("E2")
def test_objectives_stay_finite_at_large_logits(name):
  grad, terms = terms_and_grad(name)(1e4 * np.sign(draw(0)))
  assert np.isfinite(grad).all()
  chex.assert_tree_all_finite(terms)
  assert {term.shape for term in terms.values()} <= {(3, 4), (4,)}


@EVERY_OBJECTIVE
@pytest.mark.checklist("E2")
def test_objectives_compute_bfloat16_in_float32(name):
  logits = jnp.asarray(draw(0), jnp.bfloat16)
  terms = golden.jit_once(OBJECTIVES[name])(logits)
  _, expected = terms_and_grad(name)(logits.astype(jnp.float32))
  for key, term in terms.items():
    assert term.dtype == jnp.float32
    np.testing.assert_allclose(term, expected[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["dml", "dml_ensemble", "cl_ilr"])
def test_symmetric_objectives_follow_the_order_of_peers(name):
  logits, order = draw(0), np.array([2, 0, 1])
  _, terms = terms_and_grad(name)(logits)
  _, permuted = terms_and_grad(name)(logits[order])
  for key, term in terms.items():
    np.testing.assert_allclose(permuted[key], term[order], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kd_weight_may_be_traced_and_keeps_the_dtype(dtype):
  with jax.enable_x64(True):
    logits = draw(0).astype(dtype)
    function = golden.jit_once(
      lambda weight: losses.dml(logits, LABELS, kd_weight=weight)
    )
    half, whole = function(np.float64(0.5)), function(np.float64(1.0))
    assert half["peer_kd"].dtype == dtype
    np.testing.assert_allclose(2 * half["peer_kd"], whole["peer_kd"], rtol=1e-6)
    np.testing.assert_array_equal(half["peer_ce"], whole["peer_ce"])


FLOATS = st.floats(-50, 50, width=32)
LOGITS = st.lists(FLOATS, min_size=6, max_size=6).map(
  lambda values: np.array(values, np.float32)
)
FEW = settings(max_examples=25, deadline=None, derandomize=True)


@FEW
@given(student=LOGITS, teacher=LOGITS, temperature=st.floats(0.05, 20))
@pytest.mark.checklist("E2")
def test_divergence_is_not_negative(student, teacher, temperature):
  value = kl(student, teacher, temperature)
  assert value >= 0
  assert kl(teacher, teacher, temperature) == 0
  np.testing.assert_allclose(
    value,
    numpy_softened_kl(student, teacher, temperature),
    rtol=1e-4,
    atol=1e-5,
  )


@FEW
@given(student=LOGITS, teacher=LOGITS, shift=FLOATS)
def test_divergence_ignores_shifts_of_logits(student, teacher, shift):
  np.testing.assert_allclose(
    kl(student + shift, teacher, 3.0),
    kl(student, teacher, 3.0),
    rtol=1e-4,
    atol=1e-5,
  )
