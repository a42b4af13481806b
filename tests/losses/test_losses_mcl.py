"""MCL against the published vectors, in float64."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from scipy import special

from okd_jax import losses

HEAD = ("features", "W1", "b1", "W2", "b2")
TERMS = ("vcl", "soft_vcl", "icl", "soft_icl")


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def project(x):
  hidden = jnp.einsum("pbf,pfd->pbd", x["features"], x["W1"])
  hidden = jax.nn.relu(hidden + x["b1"][:, None])
  raw = jnp.einsum("pbd,pde->pbe", hidden, x["W2"]) + x["b2"][:, None]
  return raw / jnp.linalg.norm(raw, axis=-1, keepdims=True)


@pytest.mark.parametrize(
  ("name", "student"), [("mcl_M2", "all"), ("mcl_M3", "last")]
)
def test_losses_and_total(name, student):
  case = golden.case("mcl", name)
  inputs, expected = case["inputs"], case["expected"]
  labels = np.array(inputs["labels"])

  def objective(logit_kd, keys=None):
    def terms(x):
      terms = losses.mcl(
        x["logits"],
        project(x),
        labels,
        nce_temperature=inputs["tau"],
        temperature=inputs["T"],
        logit_kd=logit_kd,
      )
      return {key: terms[key] for key in keys or terms}

    return terms

  results = golden.terms_and_grads(
    {kind: objective(kind) for kind in ("off", "last", "all")}
    | {key: objective("off", (key,)) for key in TERMS},
    golden.arrays(inputs, (*HEAD, "logits")),
  )
  terms, loss, _ = results["off"]
  golden.assert_value(loss, expected["total_without_logit_kd"])
  golden.assert_value(golden.sum_of_means(terms["peer_ce"]), expected["ce_sum"])
  nce = np.array(expected["nce_matrix"])
  golden.assert_value(np.mean(terms["vcl"], axis=-1), 0.1 * np.diag(nce))
  golden.assert_value(
    np.mean(terms["icl"], axis=-1), 0.1 * (nce.sum(axis=1) - np.diag(nce))
  )
  for kind, key in (("last", "leader_kd"), ("all", "peer_kd")):
    golden.assert_value(
      golden.sum_of_means(results[kind][0][key]), expected[f"logit_kd_{kind}"]
    )
  _, loss, grads = results[student]
  golden.assert_value(loss, expected["total_with_logit_kd"])
  for key, grad in case["grads_of_total_with_logit_kd"].items():
    golden.assert_grad(grads[key], grad)
  weights = {"vcl": 0.1, "icl": 0.1}
  for key in TERMS:
    weight, (_, loss, grads) = weights.get(key, 1), results[key]
    golden.assert_value(loss, weight * expected[key])
    grad = np.array(case["grads_of_single_terms_wrt_features"][key])
    golden.assert_grad(grads["features"], weight * grad)


@pytest.mark.parametrize("name", ["mcl_M2", "mcl_M3"])
def test_supervised_nce(name):
  case = golden.case("mcl", name)
  for other in (0, 1):
    golden.assert_value(
      np.mean(
        losses.supervised_nce(
          np.array(case["expected"][f"similarity_0{other}"]),
          np.array(case["inputs"]["labels"]),
        )
      ),
      case["expected"]["nce_matrix"][0][other],
    )


def test_soft_losses_without_the_diagonal():
  """Each row, without its own column, against SciPy."""
  num_peers, num_examples, temperature = 3, 5, 2.0
  rng = np.random.default_rng(0)
  raw = rng.normal(size=(num_peers, num_examples, 4))
  embeddings = raw / np.linalg.norm(raw, axis=-1, keepdims=True)
  labels = np.array([0, 1, 0, 1, 0])

  def soft(embeddings, labels=labels):
    terms = losses.mcl(
      np.zeros((num_peers, len(labels), 2)),
      embeddings,
      labels,
      temperature=temperature,
      mask_diagonal=True,
    )
    return {key: terms[key] for key in ("soft_vcl", "soft_icl")}

  def probs(i, j):
    rows = 10 * embeddings[i] @ embeddings[j].T
    rows = rows[~np.eye(num_examples, dtype=bool)].reshape(num_examples, -1)
    return special.softmax(rows / temperature, axis=-1)

  def distance(i, j):
    """[2, B]: what peer i loses by VCL and ICL as peer j has them."""
    pairs = (probs(j, j), probs(i, i)), (probs(j, i), probs(i, j))
    divergences = [special.rel_entr(*pair).sum(axis=-1) for pair in pairs]
    return temperature**2 * np.array(divergences)

  expected = [
    sum(distance(i, j) for j in range(num_peers) if j != i)
    for i in range(num_peers)
  ]

  @golden.jit_once
  def with_gradient(embeddings):
    def loss(embeddings):
      terms = soft(embeddings)
      return jnp.sum(terms["soft_icl"]), terms

    return jax.grad(loss, has_aux=True)(embeddings)

  grads, terms = with_gradient(embeddings)
  golden.assert_value(terms["soft_vcl"], np.array(expected)[:, 0])
  golden.assert_value(terms["soft_icl"], np.array(expected)[:, 1])
  assert np.isfinite(grads).all()
  # A single example has nothing to be compared with.
  alone = soft(embeddings[:, :1], labels[:1])
  assert not any(term.any() for term in alone.values())


def test_examples_alone_in_their_class_are_left_out():
  similarity = np.random.default_rng(0).normal(size=(5, 5))
  labels = np.array([0, 1, 0, 2, 0])
  costs = []
  for a in (0, 2, 4):
    others = [k for k in range(5) if k != a]
    total = np.log(np.sum(np.exp(similarity[a, others])))
    costs.append(
      -np.mean([similarity[a, p] - total for p in (0, 2, 4) if p != a])
    )
  values, grads = jax.value_and_grad(
    lambda s: jnp.mean(losses.supervised_nce(s, labels))
  )(similarity)
  golden.assert_value(values, np.mean(costs))
  assert not grads[1].any() and not grads[3].any()
  assert not np.diag(grads).any()


@pytest.mark.parametrize("num_examples", quick.only([3], [1, 3]))
def test_batch_without_positives_costs_nothing(num_examples):
  labels = np.arange(num_examples)
  values, grads = jax.value_and_grad(
    lambda s: jnp.sum(losses.supervised_nce(s, labels))
  )(np.full((num_examples, num_examples), 1e3))
  assert values == 0
  assert not grads.any()


@pytest.mark.parametrize("enable_x64", [False, True])
def test_classes_of_64_bits_stay_apart(enable_x64):
  similarity = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
  with jax.enable_x64(enable_x64):
    costs = losses.supervised_nce(similarity, np.array([0, 2**32, 0, 1]))
    expected = losses.supervised_nce(similarity, np.array([0, 2, 0, 1]))
    np.testing.assert_array_equal(costs, expected)
    with pytest.raises(ValueError, match="^mcl: labels .*; got 4294967296"):
      losses.mcl(
        np.zeros((2, 4, 5)), np.ones((2, 4, 6)), np.array([0, 2**32, 0, 1])
      )


@pytest.mark.parametrize("labels", [None, ["a", "b", "c", "d"], np.eye(4)])
def test_labels_that_are_no_classes_are_refused(labels):
  expected = "labels must be class indices, integer "
  with pytest.raises(ValueError, match=f"^supervised_nce: {expected}"):
    losses.supervised_nce(np.zeros((4, 4)), labels)
  with pytest.raises(ValueError, match=f"^mcl: {expected}"):
    losses.mcl(np.zeros((2, 4, 5)), np.ones((2, 4, 6)), labels)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"logit_kd": "first"}, "logit_kd must be .*got 'first'"),
    ({"labels": np.zeros((4, 5))}, "labels must be class indices"),
    ({"embeddings": np.ones((1, 4, 6))}, None),
    ({"nce_temperature": 0.0}, "must be .*positive"),
    (
      {"logits": np.zeros((1, 4, 5)), "embeddings": np.ones((1, 4, 6))},
      "at least 2",
    ),
  ],
)
def test_wrong_input_is_refused(change, message):
  arguments = {
    "logits": np.zeros((2, 4, 5)),
    "embeddings": np.ones((2, 4, 6)),
    "labels": np.array([0, 0, 1, 1]),
  }
  jax.eval_shape(lambda: losses.mcl(**arguments))
  with pytest.raises((AssertionError, ValueError), match=message):
    losses.mcl(**arguments | change)


def test_a_batch_of_one_has_no_contrast_and_a_gradient():
  value, grad = jax.value_and_grad(
    lambda s: losses.supervised_nce(s, np.array([2]))[0]
  )(np.ones((1, 1)))
  assert value == 0 and not grad.any()
