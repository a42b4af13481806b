"""OEM: terms of the vectors, students of different width, who trains a stem."""

import dataclasses
import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import oem_c10, oem_c100, oem_digits
from okd_jax import backbones, core, methods
from okd_jax.devices.mesh import make_mesh
from okd_jax.errors import ConfigError
from okd_jax.groups import different_branches
from okd_jax.runs import run as run_lib, sizes
from okd_jax.settings import build, config as config_lib
from okd_jax.settings.freeze import freeze
from okd_jax.training import state as state_lib, step as steps
from okd_jax.weights import export
import runs
import toys

INFO = dataclasses.replace(
  toys.INFO, image_shape=(8, 8, 3), mean=(0.5,) * 3, std=(0.25,) * 3
)
IMAGES = jax.ShapeDtypeStruct((1, *INFO.image_shape), jnp.float32)


def test_the_loss_is_that_of_the_vectors():
  case = golden.case("oem", "losses_and_total")
  given = case["inputs"]
  maps = tuple(
    tuple(np.asarray(given[f"feat_block{b}_student{i}"]) for i in range(3))
    for b in range(2)
  )
  params = {
    f"adapter_{b}_{i}": {
      "kernel": np.asarray(given[f"kernel_block{b}_student{i}"]),
      "bias": np.asarray(given[f"bias_block{b}_student{i}"]),
    }
    for b in range(2)
    for i in (1, 2)
  }
  with jax.enable_x64(True):
    logits = jnp.asarray(given["logits"])
    batch = core.Batch(
      image=jnp.zeros((4, 2, 2, 1)),
      target=jnp.asarray(given["labels"]),
      index=jnp.arange(4),
      mask=jnp.ones(4, bool),
    )
    ctx = toys.recipe("oem", kind="branches").context(
      jnp.int32(0), jax.random.key(0), train=True
    )

    def loss(params):
      result = methods.make("oem").apply(
        {"params": params}, core.Outputs(logits, logits, maps), batch, ctx
      )
      return core.objective(result.terms)

    value, gradient = golden.jit_once(jax.value_and_grad(loss))(params)
  np.testing.assert_allclose(value, case["expected"]["total"], rtol=1e-9)
  for name, leaves in gradient.items():
    place = name.removeprefix("adapter_").split("_")
    for part, found in leaves.items():
      want = f"{part}_block{place[0]}_student{place[1]}"
      np.testing.assert_allclose(
        found, case["grads_of_total"][want], rtol=1e-9, atol=1e-12
      )


def test_maps_are_compared_by_their_means_without_adapters():
  given = golden.case("oem", "losses_and_total")["inputs"]
  expected = golden.case("oem", "intermediate_variants")["expected"]
  maps = tuple(
    tuple(np.asarray(given[f"feat_block{b}_student{i}"]) for i in range(3))
    for b in range(2)
  )
  method = methods.make("oem", adapters=False, feature_weight=1.0)
  with jax.enable_x64(True):
    logits = jnp.asarray(given["logits"])
    arguments = (
      core.Outputs(logits, logits, maps),
      toys.batch(0, 4).replace(target=jnp.asarray(given["labels"])),
      None,
    )
    assert not method.init(jax.random.key(0), *arguments)
    result = method.apply({}, *arguments)
    feature = core.objective({"feature": result.terms["feature"]})
  np.testing.assert_allclose(
    feature, expected["channel_mean_no_adapter"], rtol=1e-9
  )


def recipe(data=1, **changes):
  nets = backbones.students("resnet8", 5, 2, split=0)
  group = different_branches(nets, make_mesh(data), example=IMAGES)
  return toys.recipe("oem", peers=group, info=INFO, batch_size=8, **changes)


def train_some(setup):
  state = runs.start(setup)
  step = runs.jitted(setup, state)
  for i in range(3):
    batch = toys.batch(i, 8)
    rng = np.random.default_rng(i)
    image = rng.integers(0, 256, (8, *INFO.image_shape), dtype=np.uint8)
    batch = runs.on_mesh(setup, dataclasses.replace(batch, image=image))
    state, _ = step(state, batch, jax.random.key(1))
  return jax.device_get(state)


@pytest.mark.long
def test_students_of_different_width_end_alike_on_every_mesh():
  with jax.enable_x64(True):
    one, two = (train_some(recipe(data, dtype=jnp.float64)) for data in (1, 2))
  runs.assert_close(two, one, 1e-9)


def test_only_the_pseudo_teacher_trains_the_stem_if_it_is_said():
  for base_grad, trunk_gradient in (
    ("all", "sum"),
    ("pseudo_teacher", "first"),
  ):
    needs = methods.make("oem", base_grad=base_grad).needs
    assert needs.trunk_gradient == trunk_gradient


@pytest.mark.parametrize(
  ("recipe", "epochs", "std"),
  [(oem_c10, 350, (0.2023, 0.1994, 0.2010)), (oem_c100, 450, ())],
)
def test_the_recipe_is_that_of_the_paper(recipe, epochs, std):
  config = freeze(recipe.get_config("resnet20"))
  config_lib.check(config)
  narrow = [f"resnet20@{j}/5" for j in (4, 3, 2, 1)]
  assert config.peers.net == ",".join(["resnet20", *narrow])
  assert (config.peers.num_peers, config.peers.split) == (5, -1)
  assert (config.epochs, config.optim.drops) == (epochs, (0.5, 0.75))
  assert (config.optim.weight_decay, config.image_std) == (1e-4, std)


def test_networks_with_another_stem_are_refused():
  nets = [backbones.make(n, 5, split=0) for n in ("resnet8", "resnet8x4")]
  with pytest.raises(ConfigError, match="peer 1.*share.*same trunk"):
    different_branches(nets, make_mesh(1), example=IMAGES)


@pytest.mark.long
def test_every_student_is_measured_and_exported_as_a_whole(tmp_path):
  names = ("resnet8", "resnet8@2/3", "resnet8@1/3")
  config = oem_digits.get_config("smoke")
  config.peers.net, config.peers.num_peers = ",".join(names), len(names)
  setup = build.setup(freeze(config), INFO, 100, make_mesh(1))
  measured = sizes.of_peers(setup, range(len(names)))
  state = state_lib.init(setup, jax.random.key(0))
  run = run_lib.Run(tmp_path, freeze(config), setup, state, 0)
  images = np.random.default_rng(0).random((2, *INFO.image_shape))
  images = jnp.asarray(images, jnp.float32)
  batch = dataclasses.replace(
    setup.task.blank(2), image=setup.task.normalize_floats(images)
  )
  predict = jax.jit(functools.partial(steps.predict_normalized, setup))
  logits, predictions = predict(state.params, state.memory, batch)
  assert set(predictions) == {"ensemble"}
  for i, name in enumerate(names):
    net, variables = setup.peers.extract(run.peers_variables, i)
    assert net == backbones.make(name, 5, split=0, raw_maps=True)
    size = measured[f"peer_{i}"]["parameters"]
    assert backbones.count_parameters(variables["params"]) == size
    apply, variables = export.function(run, f"peer_{i}")
    np.testing.assert_allclose(
      golden.jit_once(apply)(variables, images), logits[i], rtol=1e-4, atol=1e-5
    )
  for what in ("parameters", "multiply-adds"):
    each = [size[what] for size in measured.values()]
    assert each == sorted(each, reverse=True)
    assert len(set(each)) == len(names)
