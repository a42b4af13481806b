"""The loops of the documentation's page run on the base install."""

import dataclasses
import functools
import os
from pathlib import Path
import re
import subprocess
import sys

from flax import serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from okd_jax import core, groups, losses, methods, training
from okd_jax.core import Batch
from okd_jax.devices.mesh import make_mesh
from okd_jax.errors import ConfigError
from okd_jax.tasks import classification
import runs
import toys

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "your_own_loop.md"
LOOPS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)

# Flax itself logs by absl, so that is refused only after Flax is there.
BLOCK = """
import sys

ABSENT = ["orbax", "ml_collections", "PIL", "tensorflow", "sklearn",
          "safetensors", "filelock", "tensorboardX", "matplotlib"]

class Absent:
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in ABSENT:
      raise ModuleNotFoundError(f"{name} is no part of the base install")

sys.meta_path.insert(0, Absent())
import chex, flax.linen, flax.nnx, jax, optax
ABSENT.append("absl")
"""


def run(program):
  return subprocess.run(
    [sys.executable, "-c", BLOCK + program],
    cwd=ROOT,
    env={
      "PATH": "",
      "PYTHONPATH": str(ROOT),
      "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"],
      "XLA_FLAGS": re.sub(r"\S+device_count=8", "", os.environ["XLA_FLAGS"]),
    },
    capture_output=True,
    text=True,
    timeout=250,
  )


@pytest.mark.long
def test_the_blocker_blocks():
  refused = run("import ml_collections")
  assert refused.returncode and "base install" in refused.stderr
  refused = run("import okd_jax.train")
  assert refused.returncode and "base install" in refused.stderr


@pytest.mark.long
@pytest.mark.parametrize(
  "loop", LOOPS, ids=["replicas", "branches", "keypoints"]
)
def test_a_loop_of_the_page_trains(loop):
  assert len(loop.strip().splitlines()) <= 40
  done = run(loop)
  assert done.returncode == 0, done.stderr
  (right,) = re.findall(r"right on (\d+)%", done.stdout)
  assert int(right) > 80, done.stdout


@pytest.mark.parametrize(
  ("name", "options"), [("kd", {}), ("mcl_okd", {"num_negatives": 4})]
)
def test_gradients_of_ones_own_are_those_of_a_step(name, options):
  """Also for a method that asks a teacher, or the labels of all examples."""
  method = methods.make(name, **options)
  made = toys.recipe(method, num_peers=2, net=toys.Quick())
  setup = dataclasses.replace(made, optimizer=optax.sgd(1.0))
  state = runs.start(setup)
  key, batch = jax.random.key(1), toys.batch(0, setup.batch_size)
  more = runs.teacher(setup), runs.train_labels(setup)

  @jax.jit
  def both(state, batch, more):
    def loss(params):
      return training.loss_fn(setup, params, state, batch, key, *more)[0]

    after, _ = training.train_step(setup, state, batch, key, *more)
    return jax.value_and_grad(loss)(state.params), after.params

  (value, grads), after = both(state, batch, more)
  assert np.isfinite(value)
  runs.assert_close(
    jax.tree.map(jnp.subtract, state.params, grads), after, 1e-6
  )


def test_a_batch_without_the_views_of_a_method_is_refused():
  setup = training.Setup(
    peers=groups.replicas(toys.Quick(4), num_peers=2, mesh=make_mesh(1, 1)),
    method=methods.make("pcl"),
    task=classification.Task(num_classes=4, image_shape=(8, 8, 1)),
    optimizer=optax.sgd(0.1),
    batch_size=4,
    train_size=8,
  )
  key = jax.random.key(0)
  state = training.init(setup, key)
  for shape in (4, 8, 8, 1), (3, 4, 8, 8, 1):
    image = np.zeros(shape, np.float32)
    batch = Batch(image, np.zeros(4, int), np.arange(4), np.ones(4, bool))
    with pytest.raises(ConfigError, match="one view for each of 2 peers"):
      jax.eval_shape(
        functools.partial(training.train_step, setup), state, batch, key
      )


def test_the_leader_and_the_state_are_kept_as_the_page_says():
  setup = toys.recipe("okddip", num_peers=3, net=toys.Quick())
  state = training.init(setup, jax.random.key(0))
  (block,) = re.findall(
    r"```\n(variables = .*?)```", PAGE.read_text(), re.DOTALL
  )
  images = setup.task.normalize(toys.batch(0)).image
  space = {"setup": setup, "state": state, "images": images}
  exec(block, space)
  predicted, _ = training.predict(
    setup, state.params, state.memory, toys.batch(0)
  )
  logits, _ = space["logits"]
  # A logit close to zero has the rounding of the others.
  np.testing.assert_allclose(logits, predicted[-1], rtol=1e-5, atol=1e-6)
  blank = training.init(setup, jax.random.key(1))
  kept = serialization.from_bytes(blank, serialization.to_bytes(state))
  jax.tree.map(np.testing.assert_array_equal, kept, state)


@pytest.mark.parametrize(
  ("name", "value", "words"),
  [
    ("peers", toys.Quick(), "must be a group, such as okd_jax.groups.replicas"),
    ("method", methods.load("dml"), r"class .*methods.make\('dml'\)"),
    ("task", "classification", r"'classification' must be .*Task\(\.\.\.\)"),
    ("optimizer", optax.adamw, r"function adamw.* such as optax.adamw\(1e-3\)"),
  ],
)
def test_parts_of_another_kind_are_refused(name, value, words):
  setup = toys.recipe("dml", num_peers=2, net=toys.Quick())
  with pytest.raises(ConfigError, match=f"(?s){name}=.*{words}"):
    dataclasses.replace(setup, **{name: value})


def test_figures_are_of_one_prediction_of_the_sums():
  setup = toys.recipe("dml", num_peers=2, net=toys.Quick())
  state = training.init(setup, jax.random.key(0))
  step = jax.jit(
    lambda batch: training.eval_step(setup, state.params, state.memory, batch)
  )
  batches = [toys.batch(seed) for seed in range(2)]
  sums = jax.tree.map(np.add, *map(step, batches))
  given = re.findall(r"`(sums\[.*?|jax\.tree\.map.*?)`", PAGE.read_text())
  found = [
    setup.task.figures(eval(text, {"sums": sums, "jax": jax}))["accuracy"]
    for text in given
  ]
  logits = [
    training.predict(setup, state.params, state.memory, batch)[0]
    for batch in batches
  ]
  logits = np.concatenate(logits, 1)
  targets = np.concatenate([batch.target for batch in batches])
  expected = [
    np.mean(np.argmax(said, -1) == targets)
    for said in (logits.mean(0), logits[-1])
  ]
  np.testing.assert_allclose(found, expected)


class Wrong(core.Method):
  """Returns what it is told, made from terms [P, B] and logits [P, B, C]."""

  wrong: str = "nothing"

  def __call__(self, outputs, batch, ctx):
    logits = outputs.logits
    terms = {"peer_ce": losses.cross_entropy(logits, batch.target)}
    return {
      "nothing": None,
      "a dictionary": terms,
      "means": core.MethodOutput({"peer_ce": jnp.mean(terms["peer_ce"])}),
      "peers": core.MethodOutput({"peer_ce": jnp.mean(terms["peer_ce"], 1)}),
      "prediction": core.MethodOutput(terms, {"mixture": logits}),
      "total": core.MethodOutput({"loss": terms["peer_ce"]}),
      "slash": core.MethodOutput({"peer/ce": terms["peer_ce"]}),
      "headline": core.MethodOutput({"accuracy": terms["peer_ce"]}),
      "summary": core.MethodOutput(terms, {}, {"rampup": ctx.rampup}),
      "again": core.MethodOutput(terms, {}, terms),
      "all paused": core.MethodOutput(terms, paused=jnp.array(True)),
      "counted": core.MethodOutput(terms, paused=jnp.zeros(3)),
      **{
        name: core.MethodOutput(terms, {name: logits[0]})
        for name in ("ensemble", "leader", "peer_0", "ema", "a/b")
      },
    }[self.wrong]


@pytest.mark.parametrize(
  ("wrong", "said"),
  [
    ("nothing", "Wrong returned None; return okd_jax.core.MethodOutput"),
    ("a dictionary", "Wrong returned {'peer_ce'.*; return okd_jax.core"),
    ("means", r"term 'peer_ce' of .*Wrong has shape \(\), .* Do not take"),
    ("peers", r"has shape \(3,\), and must have \(16,\) or \(3, 16\)"),
    ("prediction", "prediction 'mixture' of .* one prediction for the group"),
    ("total", "term 'loss' of .*Wrong must have another name"),
    ("slash", "term 'peer/ce' of .*Wrong must have another name"),
    ("headline", "term 'accuracy' of .*Wrong must have another name"),
    ("summary", "summary 'rampup' of .*Wrong must have another name"),
    ("again", "summary 'peer_ce' of .*Wrong must have another name"),
    ("all paused", r"`paused` of .* bool of shape \(\), and .* shape \(3,\)"),
    ("counted", r"`paused` of .*Wrong is float32 of shape \(3,\)"),
    *(
      (name, f"prediction '{name}' of .*Wrong must have another name")
      for name in ("ensemble", "leader", "peer_0", "ema", "a/b")
    ),
  ],
)
def test_a_method_that_returns_something_else_is_refused(wrong, said):
  setup = toys.recipe(Wrong(wrong), num_peers=3, net=toys.Quick())
  state = training.init(setup, jax.random.key(0))
  with pytest.raises(ConfigError, match=said):
    jax.eval_shape(
      functools.partial(training.train_step, setup),
      state,
      toys.batch(0),
      jax.random.key(0),
    )
