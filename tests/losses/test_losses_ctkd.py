"""CTKD against the published vectors, in float64."""

import golden
import jax
import numpy as np
import pytest

from okd_jax import losses

CASE = golden.case("ctkd", "ctkd_total")
INPUTS = CASE["inputs"]
STAGES = range(3)


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def objective(x, learner="student", **options):
  weights = {
    "hint_weight": INPUTS["gamma"],
    "attention_weight": INPUTS["beta"],
  }
  return losses.ctkd(
    x["student_logits"],
    x["scratch_logits"],
    np.array(INPUTS["labels"]),
    [x[f"{learner}_group{stage}"] for stage in STAGES],
    [x[f"expert_group{stage}"] for stage in STAGES],
    **weights | options,
  )


@pytest.mark.parametrize("learner", ["student", "scratch"])
def test_total(learner):
  names = [name for name in INPUTS if name.endswith(("logits", *"012"))]
  ((terms, loss, grads),) = golden.terms_and_grads(
    {learner: lambda x: objective(x, learner)}, golden.arrays(INPUTS, names)
  ).values()
  expected = CASE["expected"]
  golden.assert_value(loss, expected[f"total_attention_on_{learner}"])
  for key, value in (
    ("student_ce", expected["ce_student"]),
    ("scratch_ce", expected["ce_scratch"]),
    ("hint", INPUTS["gamma"] * expected["hint"]),
    ("attention", INPUTS["beta"] * sum(expected[f"at_{learner}_per_group"])),
  ):
    golden.assert_value(np.mean(terms[key]), value)
  for key, grad in CASE[f"grads_total_attention_on_{learner}"].items():
    golden.assert_grad(grads[key], grad)
  for stage in STAGES:
    assert not grads[f"expert_group{stage}"].any()


@pytest.mark.parametrize("network", ["student", "expert"])
def test_spatial_attention(network):
  golden.assert_value(
    losses.spatial_attention(np.array(INPUTS[f"{network}_group0"])),
    CASE["expected"][f"attention_map_{network}_group0"],
  )


def test_hint_into_a_live_teacher():
  case = golden.case("ctkd", "hint_without_gradient_block")
  constants = golden.arrays(
    INPUTS, [name for name in INPUTS if name[-1] in "012"]
  )

  def hint(x):
    terms = objective(x | constants, stop_gradient=False, hint_weight=1.0)
    return {"hint": terms["hint"]}

  ((_, loss, grads),) = golden.terms_and_grads(
    {"hint": hint}, golden.arrays(INPUTS, case["grads"])
  ).values()
  golden.assert_value(loss, case["expected"]["hint"])
  for key, grad in grads.items():
    golden.assert_grad(grad, case["grads"][key])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"student_maps": None}, "^ctkd: student_maps must be a sequence; got No"),
    ({"expert_maps": []}, "as many stages as student_maps, 1; got 0"),
    ({"expert_maps": [np.zeros((4, 3, 3, 6))]}, None),
    ({"student_maps": [np.zeros((4, 4, 6))]}, None),
    ({"scratch_logits": np.zeros((4, 6))}, None),
    ({"labels": np.arange(3)}, None),
  ],
)
def test_wrong_input_is_refused(change, message):
  logits, maps = np.zeros((4, 5)), [np.zeros((4, 2, 2, 6))]
  arguments = {
    "student_logits": logits,
    "scratch_logits": logits,
    "labels": np.arange(4),
    "student_maps": maps,
    "expert_maps": maps,
    "hint_weight": 0.03,
    "attention_weight": 1000.0,
  }
  jax.eval_shape(lambda: losses.ctkd(**arguments))
  with pytest.raises((AssertionError, ValueError), match=message):
    losses.ctkd(**arguments | change)


@pytest.mark.parametrize("alone", ["student_logits", "scratch_logits"])
def test_a_class_masked_once_is_an_infinite_hint(alone):
  logits = dict.fromkeys(("student_logits", "scratch_logits"), np.zeros((1, 3)))
  logits[alone] = np.array([[1.0, 0.0, -np.inf]])

  def hint(student):
    x = logits | {"student_logits": student}
    weights = {"hint_weight": 1.0, "attention_weight": 1.0}
    terms = losses.ctkd(
      **x, labels=np.zeros(1, int), student_maps=[], expert_maps=[], **weights
    )
    return terms["hint"][0]

  value, grad = jax.value_and_grad(hint)(logits["student_logits"])
  assert value == np.inf
  sign = 1 if alone == "student_logits" else -1
  np.testing.assert_array_equal(grad, [[2 * sign, 0, 0]])


@pytest.mark.parametrize("size", [1e-3, 5e9, 1e15])
def test_attention_of_maps_of_any_size(size):
  maps = np.random.default_rng(0).normal(size=(2, 3, 3, 4))
  large = (size * maps).astype(np.float32)

  @jax.jit
  def attention_and_gradient(maps):
    def distance(maps):
      return losses.attention_distance(maps, maps[::-1]).sum()

    return losses.spatial_attention(maps), jax.grad(distance)(maps)

  attention, grad = attention_and_gradient(large)
  expected, expected_grad = attention_and_gradient(maps)
  np.testing.assert_allclose(attention, expected, rtol=1e-5)
  np.testing.assert_allclose(grad * size, expected_grad, atol=1e-5)
  for zeros in attention_and_gradient(np.zeros_like(large)):
    assert not zeros.any()


def test_a_map_without_positions_is_refused():
  with pytest.raises(ValueError, match=r"maps must be .*\[..., H, W, D\]"):
    losses.spatial_attention(np.zeros((4, 6)))
