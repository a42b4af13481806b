"""Teachers and averages are what they are, also where neither is passed."""

from pathlib import Path

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import kd_digits
from okd_jax import core, groups, methods, train
from okd_jax.devices.mesh import make_mesh
from okd_jax.runs import run as run_lib
from okd_jax.settings.freeze import freeze
from okd_jax.training import (
  state as state_lib,
  step as steps,
  targets,
)
from okd_jax.weights import export
import runs
import toys

FIXTURES = Path(__file__).parent.parent / "fixtures"


class Hint(core.Method):
  """Pulls projected features towards the teacher's, and peeks at targets."""

  temperature: float = 3.0
  kd_weight: float = 1.0
  eps: float = 1e-7
  peeks: bool = False

  @property
  def needs(self):
    return core.Needs(teacher=True, ema_decay=0.9)

  @nn.compact
  def __call__(self, outputs, batch, ctx):
    features = outputs.teacher.features
    projected = nn.Dense(features.shape[-1], name="hint")(outputs.features)
    stages = len(outputs.teacher.maps)
    scale = self.param("stages", nn.initializers.ones, (stages,))
    gap = jnp.mean(jnp.square(projected - features), -1) * jnp.sum(scale)
    predictions = {
      "hinted": outputs.logits[0] + jnp.sum(projected, (0, 2))[:, None]
    }
    if self.peeks:
      predictions["teacher"] = outputs.teacher.logits[0]
      predictions["average"] = outputs.ema.logits[0]
    return core.MethodOutput({"hint": gap}, predictions)


class Deep(nn.Module):
  """A teacher of another width and depth than the toy."""

  num_classes: int = 5

  @nn.compact
  def __call__(self, x, *, train):
    del train
    maps = []
    for width in (3, 4, 11):
      x = nn.relu(nn.Conv(width, (3, 3))(x))
      maps.append(x)
    features = jnp.mean(x, (1, 2))
    logits = nn.Dense(self.num_classes)(features)
    return core.Outputs(logits, features, tuple(maps))


def shapes_of(tree):
  return jax.tree.map(lambda x: x.shape, tree)


@pytest.mark.parametrize(
  ("data", "peer"), [pytest.param(1, 1, marks=pytest.mark.long), (2, 2)]
)
def test_parameters_are_shaped_by_the_teacher(data, peer):
  recipe = toys.recipe(
    Hint(peeks=True),
    data=data,
    peer=peer,
    teacher=groups.replicas(Deep(), 1, make_mesh(data * peer)),
  )
  state = runs.start(recipe)
  hint = state.params["method"]
  assert shapes_of(hint) == {
    "hint": {"kernel": (8, 11), "bias": (11,)},
    "stages": (3,),
  }
  stepped, measured = runs.train(recipe, 2)
  assert np.isfinite(measured["terms"]["hint"]).all()
  logits, predictions = jax.jit(
    lambda s, b: steps.predict(recipe, s.params, s.memory, b)
  )(stepped, toys.batch(0))
  assert np.isfinite(logits).all() and np.isfinite(predictions["hinted"]).all()
  # What reads a target in evaluation is visibly wrong.
  assert np.isnan(predictions["teacher"]).all()
  assert np.isnan(predictions["average"]).all()


def test_shapes_are_remembered():
  mesh = make_mesh(2)
  for group in (
    groups.replicas(Deep(), 1, mesh),
    groups.mixed((Deep(), toys.Toy(5)), mesh),
    groups.branches(toys.Toy(5), 2, mesh),
  ):
    recipe = toys.recipe("kd", teacher=group)
    example = targets.teacher_example(recipe)
    assert targets.from_json(targets.to_json(example)) == example
    outputs = state_lib.outputs_like(
      recipe,
      jax.eval_shape(
        recipe.peers.init, jax.random.key(0), recipe.example_images()
      ),
    )
    taught = jax.eval_shape(
      lambda key, x, group=group: group.apply(
        group.init(key, x[:1]), x, key, train=False
      )[0],
      jax.random.key(0),
      jnp.zeros((2, 6, 6, 1)),
    )
    assert jax.tree.structure(outputs.teacher) == jax.tree.structure(taught)
    assert outputs.teacher.logits.shape == (group.num_peers, 1, 5)


def test_methods_without_targets_get_none():
  recipe = toys.recipe("okddip")
  peers = jax.eval_shape(
    recipe.peers.init, jax.random.key(0), recipe.example_images()
  )
  outputs = state_lib.outputs_like(recipe, peers)
  assert outputs.ema is None and outputs.teacher is None


@pytest.mark.long
def test_a_reopened_run_knows_its_teachers_shapes(tmp_path, monkeypatch):
  config = kd_digits.get_config("smoke")
  config.teacher, config.teacher_net = str(FIXTURES / "run"), ""
  config.peers.net, config.mesh.data = "own_networks:Wide", 2
  config.epochs, config.rampup_epochs = 1, 0
  make = methods.make
  monkeypatch.setattr(
    methods,
    "make",
    lambda name, **given: (
      Hint(**given) if name == "kd" else make(name, **given)
    ),
  )
  train.train(freeze(config), tmp_path)
  run = run_lib.run(tmp_path)
  # Of the teacher, which returns 8 features and two maps; the peer 16 and none.
  hint = run.state.params["method"]
  assert shapes_of(hint)["hint"]["kernel"] == (16, 8)
  assert hint["stages"].shape == (2,)
  assert run.setup.teacher is None
  images = jnp.zeros((2, *run.setup.task.image_shape))
  apply, variables = export.function(run, "hinted")
  assert np.isfinite(apply(variables, images)).all()
  config.extra_epochs = 1
  state, _ = train.train(freeze(config), tmp_path)
  assert int(state.step) == 2 * run.step

  (tmp_path / "teacher.json").write_text("{}")
  with pytest.raises(Exception, match="is damaged"):
    run_lib.run(tmp_path)
