"""What is restored is what was saved, for every method and any devices."""

import dataclasses
import gc
import json
from pathlib import Path
import shutil

import jax
import numpy as np
import pytest
import quick
import test_runner

from okd_jax import methods, train
from okd_jax.cli import common as cli
from okd_jax.runs import run as run_lib
from okd_jax.settings import freeze
from okd_jax.storage.checkpoint import Checkpoints
from okd_jax.training import finite, state as state_lib, step as steps
from okd_jax.training.runner import Runner
from okd_jax.weights import exported
import runs
import toys

ROOT = Path(__file__).resolve().parents[2]
FIXTURE = Path(__file__).parents[1] / "fixtures" / "run"


def assert_same(actual, expected):
  leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(expected))
  for (path, value), found in zip(
    leaves, jax.tree.leaves(jax.device_get(actual)), strict=True
  ):
    assert found.dtype == value.dtype
    np.testing.assert_array_equal(
      found, value, err_msg=jax.tree_util.keystr(path)
    )


@pytest.mark.checklist("B1")
@pytest.mark.parametrize("name", quick.only(["pcl"], toys.SOME_FIRST))
def test_every_method_goes_on_from_any_step(name, tmp_path):
  # Epochs of 40 examples in batches of 16: k = 3 is the first step of one.
  # The rule of KDCL that remembers something.
  options = {"rule": "general"} if name == "kdcl" else {}
  method = methods.make(name, **options)
  kind = method.needs.kind or ("branches" if name == "pcl" else "replicas")
  recipe = toys.recipe(method, kind=kind, num_peers=3)
  state = runs.start(recipe)
  abstract = state_lib.abstract(recipe, jax.random.key(0))
  step_fn = runs.jitted(recipe, state)
  given = (jax.random.key(1), runs.teacher(recipe), runs.train_labels(recipe))

  def go_on(state, first):
    for step in range(first, 5):
      batch = runs.on_mesh(recipe, toys.batch(step))
      state, measured = step_fn(state, batch, *given)
      if first == 0:
        checkpoints.save(step + 1, state, wait=True)
    return jax.device_get((state, measured))

  checkpoints = Checkpoints(tmp_path, keep=9)
  expected = go_on(state, 0)
  assert np.isfinite(expected[1]["gradient_norm"])
  for k in (1, 2, 3):
    restored, _, _ = Checkpoints(tmp_path).restore(abstract, k)
    assert_same(go_on(restored, k), expected)


def random_state(recipe):
  """A state in which no two leaves are alike."""
  rng = np.random.default_rng(0)
  state = runs.start(recipe)
  return jax.tree.map(
    lambda leaf: jax.device_put(
      rng.normal(size=leaf.shape).astype(leaf.dtype), leaf.sharding
    ),
    state,
  )


@pytest.mark.checklist("C4")
def test_a_state_moves_between_meshes(tmp_path):
  first = random_state(toys.recipe("pcl", kind="branches", data=4, peer=2))
  expected, state = jax.device_get(first), first
  for step, (data, peer) in enumerate([(1, 1), (8, 1), (4, 2)]):
    Checkpoints(tmp_path).save(step, state, wait=True)
    recipe = toys.recipe("pcl", kind="branches", data=data, peer=peer)
    wanted = state_lib.abstract(recipe, jax.random.key(0))
    state, _, _ = Checkpoints(tmp_path).restore(wanted, step)
    assert_same(state, expected)
    for leaf, like in zip(
      jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True
    ):
      assert leaf.sharding == like.sharding


@pytest.mark.checklist("C4")
def test_a_run_of_an_earlier_release_is_reopened():
  run = run_lib.run(FIXTURE)
  expected = json.loads((FIXTURE / "expected.json").read_text())
  assert run.step == expected["step"]
  leaves = {
    jax.tree_util.keystr(path): exported.digest(
      np.ascontiguousarray(leaf).tobytes()
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(
      jax.device_get(run.state)
    )
  }
  assert leaves == expected["sha256"]


@pytest.mark.checklist("C4", "G2")
def test_a_run_of_an_earlier_release_goes_on(tmp_path):
  workdir = Path(shutil.copytree(FIXTURE, tmp_path / "run"))
  config = run_lib.about(workdir)[0]
  total = config.epochs * 5
  config = dataclasses.replace(config, extra_epochs=1)
  state, _ = train.train(config, workdir)
  assert int(state.step) == total + 5


def short(*flags):
  return cli.read_recipe(
    [
      "main.py",
      "--config=configs/okddip_digits.py:smoke",
      "--config.peers.net=toys:Toy",
      "--config.peers.num_peers=3",
      "--config.mesh.data=1",
      *flags,
    ]
  )[0]


@pytest.mark.checklist("J1")
def test_a_run_traces_training_and_evaluation_once(
  tmp_path, monkeypatch, in_repository
):
  traced = []

  def counted(name):
    whole = getattr(steps, name)

    def count(*args, **kwargs):
      traced.append(name)
      return whole(*args, **kwargs)

    monkeypatch.setattr(steps, name, count)

  counted("train_step")
  counted("eval_step")
  train.train(short("--config.epochs=3"), tmp_path)
  assert sorted(traced) == ["eval_step", "train_step"]


def resident():
  """Bytes of this process in memory."""
  pages = int(Path("/proc/self/statm").read_text().split()[1])
  return pages * 4096


@pytest.mark.long
@pytest.mark.checklist("J3")
def test_memory_is_flat():
  recipe = toys.recipe("independent", num_peers=2, epochs=400)
  state = test_runner.start(recipe)
  source = test_runner.source(recipe)
  runner = Runner(recipe, source, state, jax.random.key(1))
  seen = {}
  for step in range(1000):
    state = runner.run(state, step, step + 1)
    finite.check_measures(step, runner.measured())
    if step in (299, 999):
      gc.collect()
      seen[step] = sum(a.nbytes for a in jax.live_arrays()), resident()
  assert seen[999][0] == seen[299][0]
  assert seen[999][1] - seen[299][1] < 2**20


@pytest.fixture
def in_repository(monkeypatch):
  monkeypatch.chdir(ROOT)


def recipes():
  return sorted(
    path.stem
    for path in (ROOT / "configs").glob("*_*.py")
    if not path.stem.startswith(("_", "compare"))
  )


def trains_and_goes_on(config, workdir):
  changes = {
    "data.train_examples": 2 * config.batch_size,
    "mesh.data": 1,
    "epochs": 1,
    "rampup_epochs": 1,
    "schedule.final": 0.1,  # or nothing would be learned after it
  }
  config = freeze.replace(config, changes)
  assert int(train.train(config, workdir)[0].step) == 2
  config = dataclasses.replace(config, extra_epochs=1)
  state, summary = train.train(config, workdir)
  assert int(state.step) == 4
  headline = "pckh" if config.data.of_keypoints else "accuracy"
  assert summary["last"][f"test/leader/{headline}"] >= 0


def teach(config, taught):
  if config.method.name == "mcl_okd":  # of few images
    config = freeze.replace(config, {"method.num_negatives": 8})
  if config.method.name == "ctkd":  # its maps must have the expert's sizes
    config = freeze.replace(config, {"peers.net": "toys:Toy"})
  if config.method.name in ("kd", "ctkd"):
    return dataclasses.replace(config, teacher=str(taught), teacher_net="")
  return config


REPRESENTATIVE = ("kd_c100", "pcl_fashion_mnist")


@pytest.mark.checklist("K2")
@pytest.mark.parametrize("name", quick.only(["kd_c100"], REPRESENTATIVE))
def test_some_recipes_train_and_go_on(name, tmp_path, in_repository):
  config = cli.read_recipe(["main.py", f"--config=configs/{name}.py:smoke"])[0]
  config = freeze.replace(config, {"peers.net": "toys:Toy"})
  trains_and_goes_on(teach(config, FIXTURE), tmp_path)


@pytest.mark.slow
@pytest.mark.checklist("K2")
@pytest.mark.parametrize("name", recipes())
def test_every_recipe_trains_and_goes_on(name, tmp_path, in_repository):
  config = cli.read_recipe(["main.py", f"--config=configs/{name}.py:smoke"])[0]
  trains_and_goes_on(teach(config, FIXTURE), tmp_path)
