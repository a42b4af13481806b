"""MCL-OKD: negatives, memory banks, and terms like those of the loss."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import mcl_okd_c100
from okd_jax import core, groups, losses, methods, training
from okd_jax.devices.mesh import make_mesh
from okd_jax.errors import ConfigError
from okd_jax.methods import _contrast, mcl_okd
from okd_jax.settings import config as config_lib
from okd_jax.settings.freeze import freeze
from okd_jax.tasks import classification
import toys

P, B, C, D, N, K = 3, 4, 5, 6, 40, 10
LABELS = np.where(np.arange(N) % 7 == 6, -1, np.arange(N) % C).astype(np.int32)
INDEX = np.array([3, 10, 24, 1], np.int32)


def draws(replacement, count=400):
  keys = jax.random.split(jax.random.key(0), count)

  def draw(key):
    labels, index = jnp.asarray(LABELS), jnp.asarray(INDEX)
    return _contrast.draw_negatives(
      key, labels, index, K, replacement=replacement
    )

  return np.asarray(jax.jit(jax.vmap(draw))(keys))


@pytest.mark.parametrize("replacement", [False, True])
def test_negatives_are_uniform_over_other_classes(replacement):
  drawn = draws(replacement)
  for i, own in enumerate(LABELS[INDEX]):
    candidates = np.flatnonzero((LABELS >= 0) & (LABELS != own))
    counts = np.bincount(drawn[:, i].ravel(), minlength=N)
    assert set(np.flatnonzero(counts)) == set(candidates)
    share = K / len(candidates)
    expected = len(drawn) * share
    # The variance without replacement is smaller.
    deviation = np.sqrt(expected * (1 - (1 - replacement) * share))
    assert np.all(np.abs(counts[candidates] - expected) < 5 * deviation)


def test_no_negative_comes_twice():
  for row in draws(False).reshape(-1, K):
    assert len(set(row)) == K


def test_examples_of_a_class_have_negatives_of_their_own():
  drawn = draws(False)
  same = [set(rows[0]) == set(rows[1]) for rows in drawn]
  assert LABELS[INDEX[0]] != LABELS[INDEX[1]]
  assert np.mean(same) < 0.05


def test_positives_are_uniform_over_the_class():
  keys = jax.random.split(jax.random.key(0), 400)

  def draw(key):
    return _contrast.draw_positives(
      key, jnp.asarray(LABELS), jnp.asarray(INDEX)
    )

  drawn = np.asarray(jax.jit(jax.vmap(draw))(keys))
  for i, own in enumerate(LABELS[INDEX]):
    candidates = np.flatnonzero(LABELS == own)
    counts = np.bincount(drawn[:, i], minlength=N)
    assert set(np.flatnonzero(counts)) == set(candidates)
    expected = len(keys) / len(candidates)
    assert np.all(np.abs(counts[candidates] - expected) < 5 * expected**0.5)


def given(index=INDEX, width=8):
  rng = np.random.default_rng(0)
  batch = core.Batch(
    image=jnp.zeros((B, 2, 2, 1)),
    target=jnp.asarray(LABELS[index]),
    index=jnp.asarray(index),
    mask=jnp.ones(B, bool),
  )
  ctx = core.Context(
    epoch=jnp.float32(0),
    step=jnp.int32(0),
    rampup=jnp.float32(0.5),
    key=jax.random.key(1),
    num_examples=N,
    train=True,
    train_labels=jnp.asarray(LABELS),
  )
  features = jnp.asarray(rng.normal(size=(P, B, D)))
  logits = jnp.asarray(rng.normal(size=(P, B, C)))
  method = methods.make("mcl_okd", num_negatives=K, embedding_size=width)
  outputs = core.Outputs(logits, features)
  init = jax.jit(lambda key: method.init(key, outputs, batch, ctx))
  variables = init(jax.random.key(0))
  variables = jax.tree.map(lambda x: x.astype(features.dtype), variables)
  return method, variables, outputs, batch, ctx


def embed(params, features):
  projected = jnp.stack(
    [
      own @ params[f"projection_{i}"]["kernel"]
      + params[f"projection_{i}"]["bias"]
      for i, own in enumerate(features)
    ]
  )
  return projected / jnp.linalg.norm(projected, axis=-1, keepdims=True)


@pytest.mark.parametrize("positive", ["exact", "relax"])
def test_terms_and_gradients_are_those_of_the_loss(positive, monkeypatch):
  monkeypatch.setattr(mcl_okd, "_CHUNK", 3)
  with jax.enable_x64(True):
    method, variables, outputs, batch, ctx = given()
    method = method.clone(positive=positive)
    bank = variables["bank"]["rows"]
    positives = INDEX
    if positive == "relax":
      positives = jax.jit(_contrast.draw_positives)(
        jax.random.fold_in(ctx.key, 1), ctx.train_labels, batch.index
      )
      assert (positives != INDEX).any()

    @jax.jit
    def draw(*args):
      return _contrast.draw_negatives(*args, K, replacement=False)

    negatives = draw(ctx.key, ctx.train_labels, batch.index)

    def ours(params, features):
      seen = dataclasses.replace(outputs, features=features)
      terms, _ = method.apply(
        {"params": params, "bank": variables["bank"]},
        seen,
        batch,
        ctx,
        mutable=["bank"],
      )
      return core.objective(terms.terms), terms.terms

    def expected(params, features):
      terms = losses.mcl_okd(
        outputs.logits,
        embed(params, features),
        bank[positives].swapaxes(0, 1),
        jnp.moveaxis(bank[negatives], 2, 0),
        batch.target,
        num_examples=int(np.sum(LABELS >= 0)),
      )
      return core.objective(terms), terms

    args = variables["params"], outputs.features
    found, wanted = (
      jax.jit(jax.value_and_grad(fn, (0, 1), has_aux=True))(*args)
      for fn in (ours, expected)
    )
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),
      found,
      wanted,
    )


def test_the_bank_remembers_the_last_of_equal_examples():
  index = np.array([3, 10, 3, 1], np.int32)
  with jax.enable_x64(True):
    method, variables, outputs, batch, ctx = given(index)
    method = method.clone(momentum=0.75)
    apply = jax.jit(
      lambda v: method.apply(v, outputs, batch, ctx, mutable=["bank"])
    )
    _, after = apply(variables)
    before, after = variables["bank"]["rows"], after["bank"]["rows"]
    embedded = embed(variables["params"], outputs.features)
    for place, row in ((1, 10), (2, 3), (3, 1)):
      mixed = 3 * before[row] + embedded[:, place]
      mixed /= np.linalg.norm(mixed, axis=-1, keepdims=True)
      np.testing.assert_allclose(after[row], mixed, rtol=1e-12)
    others = np.setdiff1d(np.arange(N), index)
    np.testing.assert_array_equal(after[others], before[others])


def test_rows_begin_uniform_with_squared_length_one():
  rows = given()[1]["bank"]["rows"]
  assert np.abs(rows).max() < (3 / 8) ** 0.5
  assert np.mean(np.sum(np.square(rows), -1)) == pytest.approx(1, abs=0.1)


def test_many_negatives_are_not_gathered_at_once():
  method, variables, outputs, batch, ctx = given(width=64)
  method = method.clone(num_negatives=4096, replacement=True)

  def loss(features):
    seen = dataclasses.replace(outputs, features=features)
    result, _ = method.apply(variables, seen, batch, ctx, mutable=["bank"])
    return core.objective(result.terms)

  compiled = jax.jit(jax.grad(loss)).lower(outputs.features).compile()
  rows_of_a_bank = 4 * B * 4096 * 64
  assert compiled.memory_analysis().temp_size_in_bytes < rows_of_a_bank


@pytest.mark.parametrize(
  ("net", "split", "num_negatives"),
  [
    ("resnet32", 1, 256),
    ("densenet40_12", 1, 256),
    ("hcgnet_a1", 1, 16_384),
    ("vgg16_linear", 3, 16_384),
  ],
)
def test_the_recipe_is_that_of_the_authors(net, split, num_negatives):
  config = freeze(mcl_okd_c100.get_config(net))
  config_lib.check(config)
  assert (config.peers.kind, config.peers.split) == ("branches", split)
  assert config.method.num_negatives == num_negatives
  assert (config.batch_size, config.optim.learning_rate) == (64, 0.05)
  assert (config.schedule.name, config.epochs) == ("cosine", 300)
  assert config.image_mean == (0.5071, 0.4867, 0.4408)
  assert config.image_std == (0.2675, 0.2565, 0.2761)


def test_more_negatives_than_candidates_are_refused():
  method = methods.make("mcl_okd", num_negatives=29)
  with pytest.raises(
    ConfigError, match="num_negatives=29 .* at most 28.*lower"
  ):
    method.check_labels(LABELS)
  method.clone(num_negatives=28).check_labels(LABELS)
  method.clone(replacement=True).check_labels(LABELS)


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("labels", [np.zeros(9, int), np.full(5, -1)])
def test_images_of_one_class_are_refused(replacement, labels):
  method = methods.make("mcl_okd", replacement=replacement)
  with pytest.raises(ConfigError, match="of one class.*more classes"):
    method.check_labels(labels)


def test_few_negatives_are_refused_in_a_loop_of_ones_own():
  setup = training.Setup(
    peers=groups.replicas(toys.Toy(4), 2, make_mesh(1, 1)),
    method=methods.make("mcl_okd", num_negatives=7, embedding_size=3),
    task=classification.Task(num_classes=4, image_shape=(8, 8, 1)),
    optimizer=optax.sgd(0.1),
    batch_size=4,
    train_size=8,
  )
  state = training.init(setup, jax.random.key(0))
  index = np.arange(4)
  batch = core.Batch(
    np.ones((4, 8, 8, 1), np.float32), index, index, np.ones(4, bool)
  )
  labels = np.arange(8, dtype=np.int32) % 4

  def step(setup, labels):
    taught = functools.partial(training.train_step, setup, train_labels=labels)
    return jax.eval_shape(taught, state, batch, jax.random.key(1))

  for known in (labels, jnp.asarray(labels)):
    with pytest.raises(ConfigError, match="num_negatives=7 must be at most 6"):
      step(setup, known)
    enough = setup.method.clone(num_negatives=6)
    step(dataclasses.replace(setup, method=enough), known)
