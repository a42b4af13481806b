"""SwitOKD from the recipe to the records, and on the published vectors."""

import json

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import switokd_c10, switokd_c100, switokd_digits
from okd_jax import core, methods, train
from okd_jax.errors import ConfigError
from okd_jax.runs import records as records_lib
from okd_jax.settings import config as config_lib
from okd_jax.settings.freeze import freeze
from okd_jax.weights import exported


@pytest.mark.parametrize(
  ("name", "num_teachers", "paused"),
  [
    pytest.param(
      "three_nets_2T1S", 2, [False, True, False], marks=pytest.mark.long
    ),
    ("three_nets_1T2S", 1, [False, False, False]),
  ],
)
def test_three_networks(name, num_teachers, paused):
  case = golden.case("switokd", name)
  labels = np.array(case["inputs"]["labels"], np.int32)
  batch = core.Batch(
    image=jnp.zeros((len(labels), 1, 1, 1)),
    target=labels,
    index=labels,
    mask=labels >= 0,
  )
  ctx = core.Context(
    epoch=jnp.asarray(0.0),
    step=jnp.int32(0),
    rampup=jnp.asarray(0.1),
    key=jax.random.key(0),
    num_examples=64,
    train=True,
  )
  method = methods.make("switokd", num_teachers=num_teachers)
  with jax.enable_x64(True):
    logits = jnp.array(case["inputs"]["logits"])
    result = method.apply({}, core.Outputs(logits, logits), batch, ctx)
    total = core.objective(result.terms)
  golden.assert_value(total, case["expected"]["total_of_updated"])
  np.testing.assert_array_equal(result.paused, paused)
  np.testing.assert_array_equal(
    result.summaries["paused"], np.float32(paused[:num_teachers])
  )


def test_the_teacher_is_the_one_that_pauses():
  # By hand: d_t = 0.8 is below d_s = 1.2, and the gap of 1.2 above 0.664.
  probs = np.array([[[0.6, 0.4, 0.0]], [[0.4, 0.0, 0.6]]])
  logits = jnp.log(probs + 1e-9)
  batch = core.Batch(None, np.array([0]), np.array([0]), np.array([True]))
  result = methods.make("switokd")(core.Outputs(logits, logits), batch, None)
  np.testing.assert_array_equal(result.paused, [True, False])


@pytest.mark.parametrize("recipe", [switokd_c10, switokd_c100, switokd_digits])
@pytest.mark.parametrize(
  ("words", "num_teachers", "num_peers"),
  [("", 1, 2), ("1t2s", 1, 3), ("2t1s", 2, 3)],
)
def test_forms_of_the_recipes(recipe, words, num_teachers, num_peers):
  config = freeze(recipe.get_config(words))
  config_lib.check(config)
  assert config.method.num_teachers == num_teachers
  assert config.peers.num_peers == num_peers
  assert len(set(config.peers.net.split(","))) == num_peers
  short = freeze(recipe.get_config(f"{words},smoke"))
  assert short.peers.net == ",".join(["resnet8"] * num_peers)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  config = switokd_digits.get_config("smoke")
  config.peers.net = "examples.own_network:Small,resnet8"
  config.mesh.data = 1
  config.log_steps = 5
  workdir = tmp_path_factory.mktemp("switokd")
  train.train(freeze(config), workdir)
  return workdir


@pytest.mark.long
def test_paused_steps_are_recorded_and_drawn(run, draw):
  paused = [
    record["paused/0"]
    for record in records_lib.read_metrics(run)
    if record["kind"] == "train"
  ]
  assert len(paused) == 2
  for fraction in paused:
    assert 5 * fraction == pytest.approx(round(5 * fraction))
    assert 0 <= fraction <= 1
  draw(run)
  assert (run / "plots" / "paused.png").stat().st_size


@pytest.mark.long
def test_the_student_is_exported(run):
  card = json.loads((run / "leader" / "card.json").read_text())
  assert "resnet8" in json.dumps(card)
  apply, variables = exported.load_leader(run / "leader")
  images = np.zeros((1, 8, 8, 1), np.float32)
  assert apply(variables, images).shape == (1, 10)
  stages = {name.split("_")[0] for name in variables["params"]}
  assert {"stage1", "stage2", "stage3"} <= stages


def test_more_teachers_than_a_group_holds_are_refused():
  with pytest.raises(ConfigError, match="num_teachers=1024 must be at least 1"):
    methods.make("switokd", num_teachers=1024)
