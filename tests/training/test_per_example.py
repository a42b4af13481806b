"""What a method remembers of every example, and the labels of all of them."""

import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest
import test_runner

from okd_jax import core, losses
from okd_jax.data.sources.source import Source
from okd_jax.errors import ConfigError
from okd_jax.runs.run import Run
from okd_jax.storage.checkpoint import Checkpoints
from okd_jax.training import state as state_lib, step as steps
from okd_jax.training.evaluate import Evaluator
from okd_jax.training.runner import Runner
from okd_jax.weights import export
import runs
import toys


class Remembers(core.Method):
  """Pulls features to what they were, and away from those of other classes."""

  @property
  def needs(self):
    return core.Needs(ema_decay=0.9, per_example=("bank",), train_labels=True)

  @nn.compact
  def __call__(self, outputs, batch, ctx):
    features = outputs.features
    shape = (ctx.num_examples, features.shape[-1])
    bank = self.variable("bank", "features", jnp.zeros, shape, features.dtype)
    terms = {"peer_ce": losses.cross_entropy(outputs.logits, batch.target)}
    if ctx.train:
      before = bank.value[batch.index]
      known = ctx.train_labels >= 0
      other = known & (ctx.train_labels != batch.target[:, None])
      away = other.astype(features.dtype) @ bank.value / jnp.sum(known)
      distance = jnp.mean(jnp.square(features - before + 0.1 * away), -1)
      terms["peer_kd"] = 0.5 * distance
      if not self.is_initializing():
        seen = jax.lax.stop_gradient(jnp.mean(features, 0))
        bank.value = bank.value.at[batch.index].set(seen)
    return core.MethodOutput(
      terms, predictions={"middle": jnp.mean(outputs.logits, 0)}
    )


def recipe(data=1, peer=1, **changes):
  return toys.recipe(
    Remembers(),
    data=data,
    peer=peer,
    num_peers=2,
    net=toys.Quick(),
    mapping="vmap",
    **changes,
  )


@pytest.fixture(scope="module")
def trained():
  return runs.train(recipe(), 3)[0]


@pytest.mark.long
def test_all_meshes_agree():
  with jax.enable_x64(True):
    expected = None
    for data, peer in ((1, 1), (2, 1), (1, 2), (3, 1)):
      on_mesh = recipe(data, peer, batch_size=18, dtype=jnp.float64)
      state = runs.train(on_mesh, 4)[0]
      bank = state.memory["method"]["bank"]["features"]
      # Batches hold the examples 0 to 17.
      assert np.all(np.any(bank[:18], -1)) and not np.any(bank[18:])
      if expected is None:
        # The start is drawn on one device, so it is the same.
        expected = state
      else:
        runs.assert_close(state, expected, 1e-9)


@pytest.mark.parametrize(("data", "rows"), [(1, 128), (2, 64), (3, 128)])
def test_rows_divide_among_devices_where_they_can(data, rows):
  state = state_lib.init(recipe(data, batch_size=18), jax.random.key(0))
  bank = state.memory["method"]["bank"]["features"]
  assert bank.shape[0] == 128
  assert bank.addressable_shards[0].data.shape[0] == rows


def test_averages_do_not_have_it(trained):
  assert "bank" not in trained.average.memory["method"]
  assert "bank" in trained.memory["method"]


def test_a_checkpoint_holds_it_for_another_mesh(trained, tmp_path):
  Checkpoints(tmp_path).save(3, trained, wait=True)
  other = recipe(2)
  abstract = state_lib.abstract(other, jax.random.key(0))
  state, step, _ = Checkpoints(tmp_path).restore(abstract)
  assert step == 3
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), trained)
  assert state.memory["method"]["bank"]["features"].sharding.spec == jax.P(
    "data"
  )


def test_a_run_that_goes_on_ends_like_one_that_did_not_stop(trained):
  setup = recipe()
  step = runs.jitted(setup, trained)
  given = (jax.random.key(1), None, runs.train_labels(setup))
  results = []
  for stop in (False, True):
    state = jax.device_put(trained)
    for i in (3, 4):
      state, _ = step(state, runs.on_mesh(setup, toys.batch(i)), *given)
      if stop:
        state = jax.device_put(jax.device_get(state))
    results.append(jax.device_get(state))
  jax.tree.map(np.testing.assert_array_equal, *results)


def test_evaluation_does_not_read_it(trained):
  setup = recipe()
  source = test_runner.source(setup)
  source.positions["test"] = np.arange(16, dtype=np.int32)
  evaluator = Evaluator(setup, source)
  memory = trained.memory | {
    "method": runs.forget(setup.method, trained.memory["method"])
  }
  forgotten = dataclasses.replace(trained, memory=memory)
  expected = evaluator.figures(trained, ("test",))
  assert evaluator.figures(forgotten, ("test",)) == expected
  assert any(figure.averaged for figure in expected)


def test_an_export_does_not_hold_it(trained, tmp_path):
  setup = recipe()
  run = Run(tmp_path, ConfigDict(), setup, trained, 3)
  images = np.random.default_rng(0).random((4, *toys.INFO.image_shape))
  for what, kept in (("middle", trained), ("ema/middle", trained.average)):
    apply, variables = export.function(run, what)
    assert "bank" not in variables["method"]
    logits = jax.jit(apply)(variables, images.astype(np.float32))
    memory = state_lib.with_per_example(
      setup.method, kept.memory, trained.memory
    )
    batch = dataclasses.replace(
      setup.task.blank(4),
      image=setup.task.normalize_floats(jnp.asarray(images, jnp.float32)),
    )
    predict = jax.jit(functools.partial(steps.predict_normalized, setup))
    expected = predict(kept.params, memory, batch)[1]["middle"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


class OneRowAnExample(core.Method):
  """With as many rows as there are examples, which may not divide."""

  @property
  def needs(self):
    return core.Needs(per_example=("bank",))

  @nn.compact
  def __call__(self, outputs, batch, ctx):
    self.variable("bank", "features", jnp.zeros, (64, 8))
    terms = losses.cross_entropy(outputs.logits, batch.target)
    return core.MethodOutput({"peer_ce": terms})


def test_another_number_of_rows_is_refused():
  setup = dataclasses.replace(recipe(), method=OneRowAnExample())
  with pytest.raises(ConfigError, match=r"bank.*\(64, 8\).*num_examples=128"):
    state_lib.init(setup, jax.random.key(0))


@pytest.mark.parametrize("chunked", [False, True])
def test_the_runner_gives_labels_of_the_examples_trained_on(chunked):
  setup = recipe()
  source = test_runner.source(setup)
  labels = source.train_labels(setup.num_examples)
  assert labels.shape == (128,)
  trained_on = source.positions["train"]
  np.testing.assert_array_equal(
    labels[trained_on], np.asarray(source.labels)[trained_on]
  )
  assert np.all(np.delete(labels, trained_on) == -1)
  state = state_lib.init(setup, jax.random.key(0))
  runner = Runner(setup, source, state, jax.random.key(1), chunked=chunked)
  state = runner.run(state, 0, 2)
  bank = np.asarray(state.memory["method"]["bank"]["features"])
  seen = np.concatenate([source.order(step) for step in (0, 1)])
  np.testing.assert_array_equal(
    np.flatnonzero(np.any(bank, -1)), np.unique(seen)
  )
  assert isinstance(source, Source)


class Ranks(Remembers):
  """For a task that there is not."""

  @property
  def task(self):
    return "ranking"


def test_a_method_of_another_task_is_refused_by_name():
  with pytest.raises(
    ConfigError, match="'test_per_example' is for the task 'ranking'.*classif"
  ):
    toys.recipe(Ranks())
