"""Sums of measures on their way into a checkpoint and back."""

import json

import jax.numpy as jnp
import numpy as np

from okd_jax.training import measures as measures_lib


def measures(value):
  return {
    "terms": {"ce": jnp.array([value, 1 / 3]), "kd": jnp.array(value)},
    "summaries": {"attention": jnp.full((2, 2), value)},
    "learning_rate": jnp.array(0.1 * value),
    "rampup": jnp.array(value),
  }


def test_sums_survive_json_to_the_last_bit():
  sums = measures_lib.add(measures(0.1), measures(0.7))
  saved = json.loads(json.dumps(measures_lib.to_json(sums, 2)))
  found, count = measures_lib.from_json(saved, measures(0.0))
  assert count == 2
  np.testing.assert_array_equal(found["terms"]["ce"], sums["terms"]["ce"])
  np.testing.assert_array_equal(
    found["summaries"]["attention"], sums["summaries"]["attention"]
  )
  mean = measures_lib.means(found, count)
  np.testing.assert_allclose(mean["terms"]["kd"], 0.4, rtol=1e-6)
  assert mean["terms"]["kd"].dtype == np.float32
  np.testing.assert_allclose(mean["learning_rate"], 0.07, rtol=1e-6)


def test_sums_that_are_not_finite_are_not_saved():
  saved = measures_lib.to_json(measures(np.nan), 3)
  assert saved == {}
  found, count = measures_lib.from_json(saved, measures(1.0))
  assert count == 0
  assert not np.any(found["terms"]["ce"])
