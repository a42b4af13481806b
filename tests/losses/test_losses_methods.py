"""PCL, FFL and KDCL against the published vectors, in float64."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax import core, losses, schedules


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


@pytest.mark.parametrize(**golden.cases("pcl", "losses"))
def test_pcl(case):
  params, expected = case["params"], case["expected"]
  labels = golden.array(case["inputs"]["labels"])
  weight = params["ramp_lambda"] * schedules.rampup(
    params["epoch"], params["ramp_alpha"]
  )
  golden.assert_value(weight, expected["ramp_weight"])

  def objective(stop_gradient):
    return lambda x: losses.pcl(
      x["peer_logits"],
      x["ensemble_logits"],
      x["mean_teacher_logits"],
      labels,
      temperature=params["temperature"],
      kd_weight=weight,
      stop_gradient=stop_gradient,
    )

  results = golden.terms_and_grads(
    {"stopped": objective(True), "live": objective(False)},
    golden.arrays(
      case["inputs"], ("peer_logits", "ensemble_logits", "mean_teacher_logits")
    ),
  )
  for terms, loss, grads in results.values():
    golden.assert_value(loss, expected["total"])
    for key, per_peer, scale in (
      ("peer_ce", "ce_peers", 1),
      ("ensemble_kd", "pe_per_peer", weight),
      ("mean_teacher_kd", "pm_per_peer", weight),
    ):
      golden.assert_value(
        np.mean(terms[key], axis=-1), scale * np.array(expected[per_peer])
      )
    golden.assert_value(np.mean(terms["ensemble_ce"]), expected["ce_ensemble"])
    golden.assert_grad(grads["peer_logits"], expected["grad_peer_logits"])
    assert not grads["mean_teacher_logits"].any()
  golden.assert_grad(
    results["stopped"][2]["ensemble_logits"], expected["grad_ensemble_logits"]
  )
  golden.assert_grad(
    results["live"][2]["ensemble_logits"],
    expected["grad_ensemble_logits_if_target_not_stopped"],
  )


@pytest.mark.parametrize(**golden.cases("ffl", "losses"))
def test_ffl(case):
  params, expected = case["params"], case["expected"]
  labels = golden.array(case["inputs"]["labels"])
  weight = schedules.rampup(params["epoch"], params["ramp_length"])
  golden.assert_value(weight, expected["ramp_weight"])

  def objective(eps):
    return lambda x: losses.ffl(
      x["subnet_logits"],
      x["fused_logits"],
      labels,
      temperature=params["temperature"],
      kd_weight=weight,
      eps=eps,
    )

  results = golden.terms_and_grads(
    {
      "expected": objective(0.0),
      "expected_with_target_eps_1e-7": objective(1e-7),
    },
    golden.arrays(case["inputs"], ("subnet_logits", "fused_logits")),
  )
  for name, (terms, loss, grads) in results.items():
    golden.assert_value(loss, case[name]["total"])
    golden.assert_value(
      golden.sum_of_means(terms["peer_kd"]) + np.mean(terms["ensemble_kd"]),
      case[name]["loss_kl"],
    )
    for key, grad in grads.items():
      golden.assert_grad(grad, case[name][f"grad_{key}"])
  terms = results["expected"][0]
  for key, means, scale in (
    ("peer_ce", "ce_subnets", 1),
    ("ensemble_ce", "ce_fused", 1),
    ("peer_kd", "fusion_distill_per_subnet", weight),
    ("ensemble_kd", "ensemble_distill", weight),
  ):
    golden.assert_value(
      np.mean(terms[key], axis=-1), scale * np.array(expected[means])
    )


def kdcl_targets(logits, labels, general, expected, temperature):
  """Every target of the vectors; the mixture of softened ones is composed."""
  targets = {
    "naive": losses.kdcl_naive_target(logits, labels),
    "linear_per_sample": losses.kdcl_linear_target(logits, labels),
    "linear_per_batch": losses.kdcl_linear_target(
      logits, labels, scope="batch"
    ),
    "minlogit": losses.kdcl_minlogit_target(logits, labels),
    "general": losses.kdcl_general_target(logits, general),
  }
  if "alternative_probability_mixture" in expected["general"]:
    softened = jax.nn.softmax(logits / temperature)
    mixture = jnp.einsum("p,pbc->bc", general, softened)
    targets["mixture"] = temperature * jnp.log(mixture)
  return targets


@pytest.mark.parametrize(**golden.cases("kdcl", "targets_and_losses"))
def test_kdcl(case):
  params, inputs = case["params"], case["inputs"]
  expected = dict(case["expected"])
  logits, labels, val_probs, val_labels = (
    golden.array(inputs[name])
    for name in ("student_logits", "labels", "val_probs", "val_labels")
  )

  def loss(logits, target):
    terms = losses.kdcl(
      logits,
      target,
      labels,
      temperature=params["temperature"],
      kd_weight=params["kd_weight"],
    )
    return core.objective(terms), terms

  @golden.jit_once
  def everything(logits, val_probs):
    general = losses.kdcl_general_weights(val_probs, val_labels)
    targets = kdcl_targets(
      logits, labels, general, case["expected"], params["temperature"]
    )
    results = {
      rule: (target, jax.value_and_grad(loss, has_aux=True)(logits, target))
      for rule, target in targets.items()
    }
    return general, results

  if "alternative_probability_mixture" in expected["general"]:
    expected["mixture"] = expected["general"]["alternative_probability_mixture"]
  general, results = everything(logits, val_probs)
  golden.assert_value(general, expected["general"]["weights"])
  for rule, (target, ((total, terms), grad)) in results.items():
    golden.assert_value(total, expected[rule]["total"])
    golden.assert_grad(grad, expected[rule]["grad_student_logits"])
    if rule != "mixture":
      golden.assert_value(target, expected[rule]["teacher_logits"])
    for key, means, scale in (
      ("peer_ce", "ce_students", 1),
      ("peer_kd", "kd_students", params["kd_weight"]),
    ):
      golden.assert_value(
        np.mean(terms[key], axis=-1), scale * np.array(expected[rule][means])
      )
