"""OKDDip and its baselines against the published vectors, in float64."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from okd_jax import losses

BATCH_FIRST = ("h_aux", "z_aux")


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


@pytest.mark.parametrize(**golden.cases("okddip", "kl"))
def test_divergences(case):
  temperature, eps = case["hyper"]["T"], case["hyper"]["eps"]
  inputs = golden.arrays(case["inputs"], ("z_student", "z_teacher"))
  results = golden.terms_and_grads(
    {
      "kl": lambda x: {
        "kl": losses.softened_kl(
          x["z_student"], x["z_teacher"], temperature=temperature, eps=eps
        )
      },
      "soft_ce": lambda x: {
        "ce": losses.softened_cross_entropy(
          x["z_student"], x["z_teacher"], temperature=temperature
        )
      },
    },
    inputs,
  )
  for name, (_, loss, grads) in results.items():
    expected = case["expected"][name]
    golden.assert_value(loss, expected["loss"])
    for key, grad in grads.items():
      golden.assert_grad(grad, expected["grads"][key])


@pytest.mark.parametrize(**golden.cases("okddip", "okddip"))
def test_okddip(case):
  hyper, labels = case["hyper"], golden.array(case["inputs"]["labels"])
  weight = hyper["alpha"] * hyper["consistency_weight"]
  options = {
    "official": {},
    "stop_gradient": {"stop_gradient": True},
    "paper_probs_detached": {"aggregate": "probs", "stop_gradient": True},
    "paper_probs_grad": {"aggregate": "probs"},
  }
  inputs = golden.arrays(
    case["inputs"] | case["params"],
    ("h_aux", "z_aux", "z_leader", "W_L", "W_E"),
    peers_first=BATCH_FIRST,
  )

  def objective(**kwargs):
    return lambda x: losses.okddip(
      x["z_aux"],
      x["z_leader"],
      x["h_aux"] @ x["W_L"],
      x["h_aux"] @ x["W_E"],
      labels,
      temperature=hyper["T"],
      kd_weight=weight,
      eps=hyper["eps"],
      **kwargs,
    )

  results = golden.terms_and_grads(
    {name: objective(**kwargs) for name, kwargs in options.items()}, inputs
  )
  for name, (terms, loss, grads) in results.items():
    expected = case["expected"][name]
    golden.assert_value(loss, expected["loss"])
    for key, expected_key, scale in (
      ("peer_ce", "loss_gt_aux", 1),
      ("leader_ce", "loss_gt_leader", 1),
      ("peer_kd", "loss_dis1", weight),
      ("leader_kd", "loss_dis2", weight),
    ):
      golden.assert_value(
        golden.sum_of_means(terms[key]), scale * expected[expected_key]
      )
    for key, grad in grads.items():
      golden.assert_grad(
        grad,
        golden.array(expected["grads"][key], peers_first=key in BATCH_FIRST),
      )


@pytest.mark.parametrize(**golden.cases("okddip", "okddip"))
def test_attention_and_its_mixture(case):
  expected = case["expected"]["official"]
  inputs = golden.arrays(
    case["inputs"] | case["params"],
    ("h_aux", "z_aux", "W_L", "W_E"),
    peers_first=BATCH_FIRST,
  )

  @golden.jit_once
  def attend(x):
    weights = losses.peer_attention(
      x["h_aux"] @ x["W_L"], x["h_aux"] @ x["W_E"]
    )
    return weights, losses.mix_peers(weights, x["z_aux"])

  attention, targets = attend(inputs)
  golden.assert_value(
    attention, golden.array(expected["attention"], peers_first=True)
  )
  golden.assert_value(
    targets, golden.array(expected["target_logits"], peers_first=True)
  )


def test_okddip_without_leader_has_the_same_peer_terms():
  rng = np.random.default_rng(0)
  shapes = ((3, 2, 5), (2, 5), (3, 2, 4), (3, 2, 4))
  peers, leader, queries, keys = (rng.normal(size=shape) for shape in shapes)
  labels = np.array([0, 4])
  okddip = golden.jit_once(losses.okddip)
  with_leader = okddip(peers, leader, queries, keys, labels)
  without = okddip(peers, None, queries, keys, labels)
  assert set(without) == {"peer_ce", "peer_kd"}
  for name, term in without.items():
    golden.assert_value(term, with_leader[name])


@pytest.mark.parametrize(
  "aggregate", quick.only(["logits"], ["logits", "probs"])
)
def test_two_peers_without_themselves_follow_each_other(aggregate):
  rng = np.random.default_rng(0)
  peers, queries, keys = (rng.normal(size=(2, 3, n)) for n in (5, 4, 4))
  labels = np.array([0, 4, 2])

  def loss(peers, queries):
    terms = losses.okddip(
      peers,
      None,
      queries,
      keys,
      labels,
      eps=0.0,
      aggregate=aggregate,
      attend_to_self=False,
    )
    return jnp.sum(terms["peer_kd"]), terms["peer_kd"]

  (_, kd), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(
    jnp.asarray(peers), jnp.asarray(queries)
  )
  expected = losses.softened_kl(peers, peers[::-1], temperature=3.0, eps=0.0)
  golden.assert_value(kd, expected)
  # With nobody to choose between, attention has nothing to learn.
  assert np.all(np.isfinite(grads[0])) and np.all(grads[1] == 0)


@pytest.mark.parametrize(
  "aggregate", quick.only(["logits"], ["logits", "probs"])
)
def test_attention_learns_beside_constant_logits(aggregate):
  rng = np.random.default_rng(0)
  shapes = {"peers": (3, 2, 5), "leader": (2, 5), "queries": (3, 2, 4)}
  arrays = {name: rng.normal(size=shape) for name, shape in shapes.items()}
  keys, labels = rng.normal(size=(3, 2, 4)), np.array([0, 4])

  def jacobian(**flags):
    def sums(x):
      terms = losses.okddip(
        x["peers"],
        x["leader"],
        x["queries"],
        keys,
        labels,
        aggregate=aggregate,
        **flags,
      )
      return {name: jnp.sum(terms[name]) for name in ("peer_kd", "leader_kd")}

    return jax.jacrev(sums)(arrays)

  live, constant = jacobian(), jacobian(stop_gradient=True)
  values = jacobian(stop_gradient_values=True)
  golden.assert_value(values["peer_kd"]["queries"], live["peer_kd"]["queries"])
  assert np.any(live["peer_kd"]["queries"])
  # To the peers they are as constant as with the attention.
  golden.assert_value(values["peer_kd"]["peers"], constant["peer_kd"]["peers"])
  golden.assert_value(
    values["leader_kd"]["leader"], live["leader_kd"]["leader"]
  )
  assert np.any(live["leader_kd"]["peers"])
  assert not np.any(values["leader_kd"]["peers"])


def test_nobody_follows_others_alone():
  one = np.ones((1, 2, 3))
  with pytest.raises(ValueError, match="peer_logits"):
    losses.okddip(one, None, one, one, np.array([0, 1]), attend_to_self=False)
  with pytest.raises(ValueError, match="queries"):
    losses.peer_attention(one, one, attend_to_self=False)


def branches(x):
  """The vectors' toy: z_i = (f W3_i) V_i + c_i, batch axis second."""
  hidden = jnp.einsum("bd,pde->pbe", x["f"], x["W3"])
  return jnp.einsum("pbe,pec->pbc", hidden, x["V"]) + x["c"][:, None]


def gate(x, bn_eps):
  u = x["f"] @ x["W_gate"] + x["b_gate"]
  normal = (u - jnp.mean(u, 0)) / jnp.sqrt(jnp.var(u, 0) + bn_eps)
  return jax.nn.softmax(jax.nn.relu(x["bn_gamma"] * normal + x["bn_beta"]))


def check_toy(case, objectives, term_sums):
  names = ["f", *case["params"]]
  inputs = golden.arrays(case["inputs"] | case["params"], names)
  for name, (terms, loss, grads) in golden.terms_and_grads(
    objectives, inputs
  ).items():
    expected = case["expected"][name]
    golden.assert_value(loss, expected["loss"])
    for key, parts in term_sums.items():
      golden.assert_value(
        sum(golden.sum_of_means(terms[part]) for part in parts), expected[key]
      )
    for key, grad in grads.items():
      golden.assert_grad(grad, expected["grads"][key])


@pytest.mark.parametrize(**golden.cases("okddip", "one"))
def test_one(case):
  hyper, labels = case["hyper"], golden.array(case["inputs"]["labels"])

  def objective(stop_gradient):
    return lambda x: losses.one(
      branches(x),
      gate(x, hyper["bn_eps"]).T,
      labels,
      temperature=hyper["T"],
      kd_weight=hyper["alpha"] * hyper["consistency_weight"],
      eps=hyper["eps"],
      stop_gradient=stop_gradient,
    )

  check_toy(
    case,
    {"official": objective(False), "stop_gradient": objective(True)},
    {"loss_true": ("peer_ce", "ensemble_ce")},
  )


@pytest.mark.parametrize(**golden.cases("okddip", "cl_ilr"))
def test_cl_ilr(case):
  hyper, labels = case["hyper"], golden.array(case["inputs"]["labels"])

  def objective(stop_gradient):
    return lambda x: losses.cl_ilr(
      branches(
        x | {"f": losses.scale_gradient(x["f"], hyper["backprop_rescale"])}
      ),
      labels,
      temperature=hyper["T"],
      kd_weight=hyper["alpha"] * hyper["consistency_weight"],
      eps=hyper["eps"],
      stop_gradient=stop_gradient,
    )

  check_toy(
    case,
    {"official": objective(False), "stop_gradient": objective(True)},
    {"loss_true": ("peer_ce",)},
  )
  inputs = golden.arrays(case["inputs"] | case["params"], ("f", "W3", "V", "c"))
  mixed = golden.jit_once(
    lambda x: losses.cl_ilr(
      branches(x),
      labels,
      temperature=hyper["T"],
      ce_weight=0.3,
      kd_weight=0.7,
      eps=hyper["eps"],
    )
  )(inputs)
  hard, soft = (
    case["expected"]["official"][key] for key in ("loss_true", "loss_group")
  )
  golden.assert_value(golden.sum_of_means(mixed["peer_ce"]), 0.3 * hard)
  golden.assert_value(golden.sum_of_means(mixed["peer_kd"]), 0.7 * soft)
  leave_one_out = golden.jit_once(
    lambda x: losses.leave_one_out_mean(branches(x))
  )
  golden.assert_value(
    leave_one_out(inputs),
    golden.array(case["expected"]["official"]["targets"], peers_first=True),
  )


@pytest.mark.parametrize(**golden.cases("okddip", "ind"))
def test_independent_branches(case):
  labels = golden.array(case["inputs"]["labels"])
  check_toy(
    case,
    {"official": lambda x: {"ce": losses.cross_entropy(branches(x), labels)}},
    {},
  )


@pytest.mark.parametrize(**golden.cases("okddip", "dml"))
def test_dml(case):
  hyper, labels = case["hyper"], golden.array(case["inputs"]["labels"])
  logits = golden.array(case["inputs"]["z"], peers_first=True)
  functions = {"pairwise": losses.dml, "ensemble": losses.dml_ensemble}

  def objective(function, stop_gradient):
    return lambda z: function(
      z,
      labels,
      temperature=hyper["T"],
      eps=hyper["eps"],
      stop_gradient=stop_gradient,
    )

  results = golden.terms_and_grads(
    {
      name + suffix: objective(function, bool(suffix))
      for name, function in functions.items()
      for suffix in ("", "_stop_gradient")
    },
    logits,
  )
  for name, (_, loss, grad) in results.items():
    expected = case["expected"][name]
    golden.assert_value(loss, expected["loss"])
    golden.assert_grad(
      grad, golden.array(expected["grads"]["z"], peers_first=True)
    )


@pytest.mark.parametrize(**golden.cases("okddip", "kd"))
def test_kd(case):
  hyper, labels = case["hyper"], golden.array(case["inputs"]["labels"])
  results = golden.terms_and_grads(
    {
      "kd": lambda x: losses.kd(
        x["z_student"],
        x["z_teacher"],
        labels,
        temperature=hyper["T"],
        kd_weight=hyper["alpha"],
        eps=hyper["eps"],
      )
    },
    golden.arrays(case["inputs"], ("z_student", "z_teacher")),
  )
  _, loss, grads = results["kd"]
  golden.assert_value(loss, case["expected"]["loss"])
  golden.assert_grad(grads["z_student"], case["expected"]["grads"]["z_student"])
  assert not grads["z_teacher"].any()


@pytest.mark.parametrize(**golden.cases("okddip", "diversity"))
def test_peer_diversity(case):
  logits = golden.array(case["inputs"]["z"], peers_first=True)
  num_pairs = len(logits) * (len(logits) - 1) / 2
  # The vectors divide by 3 for any number of pairs.
  golden.assert_value(
    np.mean(golden.jit_once(losses.peer_diversity)(logits)) * num_pairs / 3,
    case["expected"]["mean_distance"],
  )
