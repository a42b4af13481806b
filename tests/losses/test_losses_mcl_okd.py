"""MCL-OKD against the published vectors, in float64."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from okd_jax import losses

NCE = golden.case("mcl_okd", "mcl_nce_per_batch_Z")
FIXED = golden.case("mcl_okd", "mcl_nce_fixed_Z")
TOTAL = golden.case("mcl_okd", "total")
DOT = golden.case("mcl_okd", "dot_distillation")


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def project(x):
  raw = jnp.einsum("pbf,pfd->pbd", x["rep"], x["W"]) + x["b"][:, None]
  return raw / jnp.linalg.norm(raw, axis=-1, keepdims=True)


def objective(x, **options):
  inputs = NCE["inputs"]
  rows = np.array(inputs["banks"])[:, np.array(inputs["idx"])]
  options = {"ce_weight": 0, "kd_weight": 0, "nce_weight": 1} | options
  return losses.mcl_okd(
    x.get("logits", jnp.asarray(DOT["inputs"]["logits"])),
    project(x),
    rows[:, :, 0],
    rows[:, :, 1:],
    np.array(DOT["inputs"]["labels"]),
    num_examples=inputs["N"],
    nce_temperature=inputs["tau"],
    temperature=DOT["inputs"]["T"],
    **options,
  )


def test_noise_contrast():
  inputs = golden.arrays(NCE["inputs"], ("rep", "W", "b"))
  golden.assert_value(project(inputs), NCE["expected"]["embeddings"])
  normalizers = np.array(NCE["expected"]["Z_bank_row_emb_col"])
  normalizers += np.eye(3)  # 0 there: no pair.
  results = golden.terms_and_grads(
    {
      "recomputed": objective,
      "given": lambda x: objective(x, normalizer=normalizers),
      "fixed": lambda x: objective(
        x, normalizer=FIXED["inputs"]["Z_all_pairs"]
      ),
    },
    inputs,
  )
  for name, case in (("recomputed", NCE), ("given", NCE), ("fixed", FIXED)):
    _, loss, grads = results[name]
    golden.assert_value(loss, case["expected"]["total"])
    for key, expected in case["grads_of_total"].items():
      golden.assert_grad(grads[key], expected)
  pairs = np.array(NCE["expected"]["loss_bank_row_emb_col"])
  golden.assert_value(
    np.mean(results["recomputed"][0]["peer_nce"], axis=-1), pairs.sum(axis=0)
  )


def test_total():
  inputs = golden.arrays(NCE["inputs"], ("rep", "W", "b")) | {
    "logits": golden.array(DOT["inputs"]["logits"])
  }
  weights = dict(
    zip(
      ("ce_weight", "kd_weight", "nce_weight"),
      (TOTAL["inputs"][name] for name in ("gamma", "alpha", "beta")),
      strict=True,
    )
  )
  results = golden.terms_and_grads(
    {
      "total": lambda x: objective(x, **weights),
      "dot": lambda x: objective(x, kd_weight=1, nce_weight=0),
    },
    inputs,
  )
  terms, loss, grads = results["total"]
  expected = TOTAL["expected"]
  golden.assert_value(loss, expected["total"])
  golden.assert_value(golden.sum_of_means(terms["peer_ce"]), expected["ce_sum"])
  golden.assert_value(np.mean(terms["leader_kd"]), expected["dot"])
  golden.assert_value(
    golden.sum_of_means(terms["peer_nce"]),
    TOTAL["inputs"]["beta"] * expected["mcl"],
  )
  for key, expected_grad in TOTAL["grads"].items():
    golden.assert_grad(grads[key], expected_grad)
  golden.assert_value(results["dot"][1], DOT["expected"]["dot"])
  golden.assert_grad(results["dot"][2]["logits"], DOT["grads"]["logits"])


def test_memory_update():
  case = golden.case("mcl_okd", "bank_update")
  inputs = NCE["inputs"]
  banks, index = np.array(inputs["banks"]), np.array(inputs["y"])
  embeddings = np.array(NCE["expected"]["embeddings"])
  banks[:, index] = losses.memory_update(
    banks[:, index], embeddings, momentum=case["inputs"]["momentum"]
  )
  golden.assert_value(banks, case["expected"]["banks_after"])


@pytest.mark.parametrize(
  ("momentum", "expected"),
  # By hand: (1, 4) / 5 has the length sqrt(17) / 5.
  [(0.8, [17**-0.5, 4 * 17**-0.5]), (0, [1, 0]), (1, [0, 1])],
)
def test_momentum_is_the_share_of_the_old_row(momentum, expected):
  old, new = np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])
  rows = losses.memory_update(old, new, momentum=momentum)
  np.testing.assert_allclose(rows, [expected], rtol=1e-6)


def test_memory_has_no_gradient():
  rows = np.ones((2, 3, 4))

  @golden.jit_once
  @jax.grad
  def of_update(embeddings):
    return jnp.sum(losses.memory_update(rows, embeddings)[..., 0])

  assert not of_update(rows).any()

  @golden.jit_once
  @jax.grad
  def of_loss(x):
    terms = losses.mcl_okd(
      jnp.zeros((2, 3, 5)), rows, *x, np.arange(3), num_examples=10
    )
    return jnp.sum(terms["peer_nce"])

  for grad in of_loss((rows, np.ones((2, 3, 6, 4)))):
    assert not grad.any()


@pytest.mark.long
def test_many_negatives_keep_their_digits_in_float32():
  """The noise terms are logarithms of ratios within 1e-4 of one."""
  rng = np.random.default_rng(0)
  num_negatives, num_examples = 4096, 50_000
  embeddings, positives, negatives = (
    x / np.linalg.norm(x, axis=-1, keepdims=True)
    for x in (
      rng.normal(size=(2, 3, 8)),
      rng.normal(size=(2, 3, 8)),
      rng.normal(size=(2, 3, num_negatives, 8)),
    )
  )
  rows = np.concatenate([positives[:, :, None], negatives], axis=2)
  scores = 10 * np.einsum("abkd,ebd->eabk", rows, embeddings)
  log_mean = special.logsumexp(scores, axis=(2, 3), keepdims=True) - np.log(
    3 * (num_negatives + 1)
  )
  probs = np.exp(scores - log_mean) / num_examples
  noise = num_negatives / num_examples
  costs = -np.log(probs[..., 0] / (probs[..., 0] + noise + 1e-7))
  costs += np.sum(np.log1p((probs[..., 1:] + 1e-7) / noise), axis=-1)
  expected = 0.025 * np.stack([costs[0, 1], costs[1, 0]])
  terms = losses.mcl_okd(
    jnp.zeros((2, 3, 5), jnp.float32),
    *(x.astype(np.float32) for x in (embeddings, positives, negatives)),
    np.arange(3),
    num_examples=num_examples,
  )
  assert terms["peer_nce"].dtype == jnp.float32
  np.testing.assert_allclose(terms["peer_nce"], expected, rtol=1e-5)


def test_negatives_are_not_repeated_for_every_pair():
  peers, examples, rows, width = 4, 8, 128, 64
  shape = jax.ShapeDtypeStruct
  embeddings = shape((peers, examples, width), np.float32)

  def loss(embeddings, negatives):
    logits, labels = jnp.zeros((peers, examples, 5)), jnp.zeros(examples, int)
    terms = losses.mcl_okd(
      logits, embeddings, embeddings, negatives, labels, num_examples=1000
    )
    return jnp.sum(terms["peer_nce"])

  compiled = (
    jax.jit(jax.grad(loss))
    .lower(embeddings, shape((peers, examples, rows, width), np.float32))
    .compile()
  )
  every_pair = 4 * peers * (peers - 1) * examples * rows * width
  assert compiled.memory_analysis().temp_size_in_bytes < every_pair / 3


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"num_examples": 0}, "num_examples must be positive.*got 0"),
    ({"num_examples": np.array(-5)}, "num_examples must be positive.*got -5"),
    ({"num_examples": "5"}, "num_examples must be positive.*got '5'"),
    ({"num_examples": True}, "num_examples must be positive.*got True"),
    ({"num_examples": None}, "num_examples must be positive.*got None"),
    ({"normalizer": -1.0}, "normalizer must be positive.*got -1.0"),
    ({"normalizer": -np.ones((2, 2))}, "normalizer must be .*got -1.0 in "),
    ({"normalizer": np.ones(2)}, r"normalizer must be .*got float64 \[2\]"),
    ({"normalizer": "a"}, "normalizer must be positive.*got 'a'"),
    ({"nce_temperature": 0.0}, "must be .*positive"),
    (
      {"negatives": np.ones((2, 3, 0, 4))},
      r"negatives must .*at least one.*\[2, 3, 0, 4\]",
    ),
    ({"positives": np.ones((2, 3, 5))}, None),
    ({"negatives": np.ones((2, 2, 6, 4))}, None),
    ({"embeddings": np.ones((1, 3, 4))}, None),
  ],
)
def test_wrong_input_is_refused(change, message):
  arguments = {
    "logits": np.zeros((2, 3, 5)),
    "embeddings": np.ones((2, 3, 4)),
    "positives": np.ones((2, 3, 4)),
    "negatives": np.ones((2, 3, 6, 4)),
    "labels": np.arange(3),
    "num_examples": 10,
  }
  jax.eval_shape(lambda: losses.mcl_okd(**arguments))
  with pytest.raises((AssertionError, ValueError), match=message):
    losses.mcl_okd(**arguments | change)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"positive": np.ones((2, 3))}, "positive must be "),
    ({"negative": np.ones((2, 2, 4, 6))}, "negative must be "),
    ({"negative": np.ones((2, 2, 3, 0))}, r"negative must .*\[2, 2, 3, 0\]"),
    ({"temperature": 0.0}, "temperature must be "),
    ({"kd_weight": "a"}, "kd_weight must be "),
    ({"labels": np.ones(3)}, "labels must be "),
    ({"num_examples": 0}, "num_examples must be "),
    ({"normalizer": -1.0}, "normalizer must be "),
  ],
)
def test_wrong_scores_are_refused_by_their_own_name(change, message):
  arguments = {
    "logits": np.zeros((2, 3, 5)),
    "positive": np.ones((2, 2, 3)),
    "negative": np.ones((2, 2, 3, 6)),
    "labels": np.arange(3),
    "num_examples": 10,
  }
  jax.eval_shape(lambda: losses.mcl_okd_of_scores(**arguments))
  with pytest.raises(ValueError, match=f"mcl_okd_of_scores: {message}"):
    losses.mcl_okd_of_scores(**arguments | change)


@pytest.mark.parametrize("momentum", [1.5, jnp.array(2.0), "a", None])
def test_momentum_outside_its_range_is_refused(momentum):
  with pytest.raises(
    ValueError, match=r"momentum must be a number in \[0, 1\];"
  ):
    losses.memory_update(np.ones((2, 3)), np.ones((2, 3)), momentum=momentum)
