"""MCL on the published vectors, heads included, and its recipes."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import mcl_c10, mcl_c100, mcl_digits, mcl_fashion_mnist
from okd_jax import core, methods
from okd_jax.settings import config as config_lib
from okd_jax.settings.freeze import freeze

CONTEXT = core.Context(
  epoch=jnp.asarray(0.0),
  step=jnp.int32(0),
  rampup=jnp.asarray(0.1),
  key=jax.random.key(0),
  num_examples=64,
  train=True,
)


def batch_of(target):
  size = len(target)
  return core.Batch(
    image=jnp.zeros((size, 1, 1, 1)),
    target=target,
    index=np.arange(size, dtype=np.int32),
    mask=np.ones(size, bool),
  )


def heads(given, size=None):
  """Our parameters from those of the vectors, or their gradients.

  The vectors' two layers are of different sizes; with `size` both get zeros up
  to it, which change no similarity.
  """

  def sized(value, *lengths):
    if not size:
      return value
    pads = [(0, n - old) for n, old in zip(lengths, value.shape, strict=True)]
    return np.pad(value, pads)

  params = {}
  for i in range(len(given["W1"])):
    w1, b1, w2, b2 = (np.array(given[k][i]) for k in ("W1", "b1", "W2", "b2"))
    params[f"hidden_{i}"] = {
      "kernel": sized(w1, len(w1), size),
      "bias": sized(b1, size),
    }
    params[f"head_{i}"] = {
      "kernel": sized(w2, size, size),
      "bias": sized(b2, size),
    }
  return params


@pytest.mark.parametrize(
  ("name", "student"), [("mcl_M2", "all"), ("mcl_M3", "last")]
)
def test_losses_and_gradients(name, student):
  case = golden.case("mcl", name)
  inputs, expected = case["inputs"], case["expected"]
  labels = np.array(inputs["labels"], np.int32)
  size = max(np.shape(inputs["W2"])[1:])

  with jax.enable_x64(True):

    def loss(logits, features, params, logit_kd):
      method = methods.make(
        "mcl",
        embedding_size=size,
        nce_temperature=inputs["tau"],
        temperature=inputs["T"],
        logit_kd=logit_kd,
      )
      result = method.apply(
        {"params": params},
        core.Outputs(logits, features),
        batch_of(labels),
        CONTEXT,
      )
      return core.objective(result.terms)

    run = golden.jit_once(jax.value_and_grad(loss, (0, 1, 2)), static_argnums=3)
    given = (
      np.array(inputs["logits"]),
      np.array(inputs["features"]),
      heads(inputs, size),
    )
    total, _ = run(*given, "off")
    golden.assert_value(total, expected["total_without_logit_kd"])
    total, (to_logits, to_features, to_heads) = run(*given, student)
  golden.assert_value(total, expected["total_with_logit_kd"])
  want = case["grads_of_total_with_logit_kd"]
  golden.assert_grad(to_logits, want["logits"])
  golden.assert_grad(to_features, want["features"])

  def compare(found, wanted):
    golden.assert_grad(found[tuple(map(slice, wanted.shape))], wanted)

  jax.tree.map(compare, to_heads, heads(want))


def test_features_of_different_widths_have_heads_of_their_own():
  method = methods.make("mcl", embedding_size=3)
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.normal(size=(2, 4, 5)), jnp.float32)
  features = tuple(jnp.asarray(rng.normal(size=(4, d))) for d in (6, 8))
  outputs = core.Outputs(logits, features)
  batch = batch_of(np.array([0, 0, 1, 1]))
  result, variables = jax.eval_shape(
    lambda key: method.init_with_output(key, outputs, batch, CONTEXT),
    jax.random.key(0),
  )
  assert variables["params"]["hidden_1"]["kernel"].shape == (8, 3)
  assert result.terms["icl"].shape == (2, 4)


def test_a_mixture_of_labels_contrasts_the_larger_part():
  method = methods.make("mcl", embedding_size=3)
  rng = np.random.default_rng(0)
  seen = core.Outputs(
    *(jnp.asarray(rng.normal(size=(2, 4, 5)), jnp.float32) for _ in range(2))
  )
  labels = np.array([0, 0, 1, 1])
  mixed = 0.7 * np.eye(5)[labels] + 0.3 * np.eye(5)[labels[::-1]]
  init = jax.jit(
    lambda key: method.init_with_output(key, seen, batch_of(labels), CONTEXT)
  )
  hard, variables = init(jax.random.key(0))
  apply = jax.jit(lambda v, y: method.apply(v, seen, batch_of(y), CONTEXT))
  mixed = apply(variables, jnp.asarray(mixed))
  for name, term in hard.terms.items():
    same = np.allclose(term, mixed.terms[name])
    assert same == (name != "peer_ce"), name
  log_probs = jax.nn.log_softmax(seen.logits)
  own = -log_probs[:, np.arange(4), labels]
  other = -log_probs[:, np.arange(4), labels[::-1]]
  np.testing.assert_allclose(
    mixed.terms["peer_ce"], 0.7 * own + 0.3 * other, rtol=1e-5
  )


def test_a_head_that_says_nothing_has_gradients():
  method = methods.make("mcl", embedding_size=3)
  seen = core.Outputs(jnp.zeros((2, 4, 5)), jnp.ones((2, 4, 5)))
  batch = batch_of(np.array([0, 0, 1, 1]))
  shapes = jax.eval_shape(
    lambda key: method.init(key, seen, batch, CONTEXT), jax.random.key(0)
  )
  blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

  @golden.jit_once
  @jax.grad
  def gradient(variables):
    result = method.apply(variables, seen, batch, CONTEXT)
    return core.objective(result.terms)

  grads = gradient(blank)
  for leaf in jax.tree.leaves(grads):
    assert np.all(np.isfinite(leaf))


def test_who_is_deployed():
  assert methods.make("mcl").leader == 0
  assert methods.make("mcl", logit_kd="all").compared == "peers_mean"
  last = methods.make("mcl", logit_kd="last")
  assert (last.leader, last.compared) == (-1, "deployed")


@pytest.mark.parametrize(
  "recipe", [mcl_c10, mcl_c100, mcl_digits, mcl_fashion_mnist]
)
def test_recipes_have_balanced_batches(recipe):
  for words in ("", "branches", "smoke"):
    config = freeze(recipe.get_config(words))
    config_lib.check(config)
    assert config.data.per_class == 2
  for peers, kind in ((2, "replicas"), (4, "branches")):
    config = mcl_c100.get_config("branches" if peers == 4 else "")
    assert (config.peers.num_peers, config.peers.kind) == (peers, kind)
