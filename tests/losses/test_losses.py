"""The package as a whole: what it imports, exports and refuses."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax import losses

LOGITS = jnp.zeros((3, 2, 5))
LABELS = jnp.array([0, 4])
FEATURES = jnp.zeros((3, 2, 4))


def test_import_needs_no_training_library():
  code = (
    "import sys; import okd_jax.losses, okd_jax.schedules; "
    "heavy = {'flax', 'orbax', 'tensorflow', 'ml_collections', 'sklearn', "
    "'optax', 'chex'}; "
    "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
  )
  result = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert result.stdout.strip() == "[]"


def test_public_names_are_listed():
  public = {name for name in vars(losses) if not name.startswith("_")}
  assert public == set(losses.__all__)
  assert all(getattr(losses, name).__doc__ for name in losses.__all__)


@pytest.mark.parametrize(
  "temperature", [0.0, -1, np.nan, np.inf, np.float32(0)]
)
def test_impossible_temperature_is_refused(temperature):
  with pytest.raises(
    ValueError, match="temperature must be a positive number; got "
  ):
    losses.softened_kl(LOGITS, LOGITS, temperature=temperature)
  with pytest.raises(
    ValueError, match="temperature must be a positive number; got "
  ):
    losses.softened_cross_entropy(LOGITS, LOGITS, temperature=temperature)
  for aggregate in ("logits", "probs"):
    with pytest.raises(
      ValueError, match="temperature must be a positive number; got "
    ):
      losses.okddip(
        LOGITS,
        None,
        FEATURES,
        FEATURES,
        LABELS,
        temperature=temperature,
        aggregate=aggregate,
      )


def test_negative_eps_is_refused():
  with pytest.raises(
    ValueError, match="softened_kl: eps must be .* at least 0.*; got -1.0"
  ):
    losses.softened_kl(LOGITS, LOGITS, temperature=1.0, eps=-1.0)


def test_unknown_aggregate_is_refused():
  with pytest.raises(
    ValueError, match="aggregate must be 'logits' .* got 'mean'"
  ):
    losses.okddip(LOGITS, None, FEATURES, FEATURES, LABELS, aggregate="mean")


@pytest.mark.parametrize(
  "call",
  [
    lambda z: losses.leave_one_out_mean(z),
    lambda z: losses.peer_diversity(z),
    lambda z: losses.dml(z, LABELS),
    lambda z: losses.dml_ensemble(z, LABELS),
    lambda z: losses.cl_ilr(z, LABELS),
    lambda z: losses.pcl(z, z[0], z, LABELS),
  ],
  ids=("leave_one_out_mean", "diversity", "dml", "dml_ens", "cl_ilr", "pcl"),
)
def test_one_peer_is_refused(call):
  with pytest.raises(ValueError, match="must be .* at least 2 peers"):
    call(LOGITS[:1])


@pytest.mark.parametrize(
  "call",
  [
    lambda: losses.cross_entropy(LOGITS, LABELS[:, None]),
    lambda: losses.cross_entropy(LOGITS, LABELS.astype(jnp.float32)),
    lambda: losses.cross_entropy(LOGITS[0, 0], LABELS),
    lambda: losses.cross_entropy(LOGITS[0, 0], jnp.float32(1)),
    lambda: losses.softened_kl(LOGITS, LOGITS[..., :1], temperature=1.0),
    lambda: losses.softened_kl(LABELS, LABELS, temperature=1.0),
    lambda: losses.peer_attention(FEATURES, FEATURES[:2]),
    lambda: losses.mix_peers(jnp.zeros((3, 1, 3)), LOGITS),
    lambda: losses.okddip(LOGITS, LOGITS, FEATURES, FEATURES, LABELS),
    lambda: losses.okddip(LOGITS, None, FEATURES[:, :1], FEATURES, LABELS),
    lambda: losses.kd(LOGITS, LOGITS, LABELS),
    lambda: losses.dml(LOGITS[0], LABELS),
    lambda: losses.one(LOGITS, jnp.zeros((2, 3)), LABELS),
    lambda: losses.pcl(LOGITS, LOGITS[0], LOGITS[:2], LABELS),
    lambda: losses.ffl(LOGITS, LOGITS[:1, 0], LABELS),
    lambda: losses.kdcl(LOGITS, LOGITS, LABELS),
    lambda: losses.kdcl_linear_target(LOGITS, LABELS[:1]),
    lambda: losses.kdcl_general_target(LOGITS, jnp.zeros(2)),
  ],
)
def test_mismatched_arrays_are_refused(call):
  with pytest.raises(AssertionError):
    call()


def test_alike_peers_have_finite_general_weights_with_a_ridge():
  probs = jnp.full((3, 4, 2), 0.5)
  weights = losses.kdcl_general_weights(
    probs, jnp.array([0, 1, 0, 1]), ridge=1e-8
  )
  np.testing.assert_allclose(weights, np.full(3, 1 / 3), rtol=1e-5)


@pytest.mark.parametrize("size", [1e-3, 1e-18, 1e-30, 0.0])
def test_general_weights_of_peers_that_are_almost_right(size):
  # Errors at right angles, of squared lengths 2 and 6: C is diagonal, and the
  # weights go as 1 / 2 and 1 / 6.
  errors = size * jnp.array([[[1.0, -1.0, 0.0]], [[1.0, 1.0, -2.0]]])
  weights = losses.kdcl_general_weights(errors, jnp.zeros((1, 3)), ridge=1e-8)
  expected = [0.75, 0.25] if size else [0.5, 0.5]
  np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_clipped_general_weights_are_a_convex_combination():
  # Errors of the second peer contain those of the first, so its weight is
  # negative: C = [[2, 4], [4, 10]] gives the weights [1.5, -0.5].
  errors = jnp.array([[[1.0, -1.0, 0.0]], [[1.0, -3.0, 0.0]]])
  free, clipped = (
    losses.kdcl_general_weights(errors, jnp.zeros((1, 3)), clip=clip)
    for clip in (False, True)
  )
  np.testing.assert_allclose(free, [1.5, -0.5], rtol=1e-5)
  assert clipped.tolist() == [1, 0]


@pytest.mark.parametrize("rule", ["naive", "linear", "minlogit", "general"])
def test_targets_of_kdcl_are_constants(rule):
  logits = jnp.array([[[3.0, 1.0, 0.0]], [[0.0, 2.0, 1.0]]])
  second = jnp.array([0.5, 0.5]) if rule == "general" else jnp.eye(3)[:1]
  target = getattr(losses, f"kdcl_{rule}_target")
  grads = jax.grad(lambda x: jnp.sum(target(*x)[:, 0]))((logits, second))
  assert not any(grad.any() for grad in grads)


def test_general_weights_are_constants():
  probs = jnp.array([[[0.8, 0.2], [0.6, 0.4]], [[0.5, 0.5], [0.9, 0.1]]])
  grad = jax.grad(
    lambda p: losses.kdcl_general_weights(p, jnp.array([0, 1]))[0]
  )(probs)
  assert not grad.any()


def test_the_first_of_equally_sure_peers_is_the_naive_target():
  # A shift changes no probability.
  logits = jnp.array([[[3.0, 1.0]], [[2.0, 0.0]], [[1.0, -1.0]]])
  target = losses.kdcl_naive_target(logits, jnp.array([0]))
  np.testing.assert_array_equal(target, [[3.0, 1.0]])


def test_minlogit_target_is_at_least_as_sure_as_any_peer():
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 5)))
  target = losses.kdcl_minlogit_target(logits, LABELS)
  assert (
    losses.cross_entropy(target, LABELS)
    <= losses.cross_entropy(logits, LABELS) + 1e-6
  ).all()
