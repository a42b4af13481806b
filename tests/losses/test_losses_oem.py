"""OEM against the published vectors, in float64."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax import losses

CASE = golden.case("oem", "losses_and_total")
NUM_BLOCKS, NUM_STUDENTS = 2, 3
INPUTS = CASE["inputs"]


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def adapt(x, block, student):
  name = f"block{block}_student{student}"
  features = x[f"feat_{name}"]
  return features @ x[f"kernel_{name}"] + x[f"bias_{name}"]


def objective(x, **options):
  return losses.oem(
    x["logits"],
    np.array(INPUTS["labels"]),
    [
      [adapt(x, block, student) for student in range(1, NUM_STUDENTS)]
      for block in range(NUM_BLOCKS)
    ],
    [x[f"feat_block{block}_student0"] for block in range(NUM_BLOCKS)],
    temperature=INPUTS["T"],
    **options,
  )


def test_losses_and_total():
  inputs = golden.arrays(INPUTS, CASE["grads_of_total"])
  ((terms, loss, grads),) = golden.terms_and_grads(
    {"oem": objective}, inputs
  ).values()
  expected = CASE["expected"]
  golden.assert_value(loss, expected["total"])
  for key, weight, values in (
    ("peer_ce", 0.7, expected["ce_per_student"]),
    ("peer_kd", 0.15, expected["kd_per_student"]),
  ):
    golden.assert_value(np.mean(terms[key], axis=-1), weight * np.array(values))
  golden.assert_value(
    golden.sum_of_means(terms["feature"]), 0.15 * expected["L_intermediate"]
  )
  for key, expected_grad in CASE["grads_of_total"].items():
    golden.assert_grad(grads[key], expected_grad)
    if key.startswith("feat") and key.endswith("student0"):
      assert not grads[key].any()


def test_variants_of_the_feature_loss():
  inputs = golden.arrays(INPUTS, CASE["grads_of_total"])
  expected = golden.case("oem", "intermediate_variants")["expected"]
  summed = objective(inputs, feature_weight=1.0, feature_reduction="sum")
  golden.assert_value(
    golden.sum_of_means(summed["feature"]),
    expected["sum_over_elements_div_batch"],
  )

  def channel_mean(block, student):
    maps = inputs[f"feat_block{block}_student{student}"]
    return np.mean(maps, axis=-1, keepdims=True)

  without_adapter = losses.oem(
    inputs["logits"],
    np.array(INPUTS["labels"]),
    [[channel_mean(b, j) for j in (1, 2)] for b in range(NUM_BLOCKS)],
    [channel_mean(b, 0) for b in range(NUM_BLOCKS)],
    feature_weight=1.0,
  )
  golden.assert_value(
    golden.sum_of_means(without_adapter["feature"]),
    expected["channel_mean_no_adapter"],
  )


def test_distillation_with_a_live_ensemble():
  case = golden.case("oem", "kd_without_stop_gradient")

  def kd(x):
    logits = x["logits"]
    ensemble = jnp.mean(logits, axis=0)
    return {"kd": losses.softened_kl(logits, ensemble, temperature=2.0)}

  ((_, loss, grads),) = golden.terms_and_grads(
    {"kd": kd}, golden.arrays(INPUTS, ("logits",))
  ).values()
  golden.assert_value(loss, case["expected"]["L_kd"])
  golden.assert_grad(grads["logits"], case["grads"]["logits"])


LOGITS, MAPS = np.zeros((3, 4, 5)), np.zeros((4, 2, 2, 6))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"feature_reduction": "max"}, "feature_reduction must be .*got 'max'"),
    ({"adapted": None}, "^oem: adapted must be a sequence; got None"),
    ({"adapted": []}, "as many blocks as reference, 1; got 0"),
    ({"adapted": [[MAPS]]}, r"adapted\[0\] must .*a map .* 2; got 1"),
    ({"adapted": [[MAPS, MAPS[..., :1]]]}, None),
    ({"reference": [MAPS[:1]], "adapted": [[MAPS[:1]] * 2]}, None),
    ({"logits": LOGITS[:1]}, "at least 2"),
  ],
)
def test_wrong_input_is_refused(change, message):
  arguments = {
    "logits": LOGITS,
    "labels": np.arange(4),
    "adapted": [[MAPS, MAPS]],
    "reference": [MAPS],
  }
  jax.eval_shape(lambda: losses.oem(**arguments))
  with pytest.raises((AssertionError, ValueError), match=message):
    losses.oem(**arguments | change)
