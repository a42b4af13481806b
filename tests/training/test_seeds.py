"""Several seeds: each as if it were trained alone, at once or one by one."""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_autotune
import test_runner

from configs import okddip_digits
from okd_jax import seeds, train
from okd_jax.errors import ConfigError, NotFiniteError
from okd_jax.runs import records as logs, summary
from okd_jax.settings.freeze import freeze
from okd_jax.training import autotune, finite
from okd_jax.training.runner import Dispatch
import runs
import toys

NAMES = ("seed3", "seed4")


def configured(**changes):
  """Two seeds of a run of 5 steps with a toy network."""
  config = okddip_digits.get_config("smoke")
  config.seed, config.num_seeds = 3, 2
  config.peers.net = "own_networks:Small"
  config.peers.num_peers = 3
  config.mesh.data = 1
  config.epochs, config.rampup_epochs = 1, 1
  config.eval_epochs = 1
  config.checkpoint_secs = 1e6
  config.update_from_flattened_dict(changes)
  return freeze(config)


@pytest.fixture(scope="module")
def at_once(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("at_once")
  return workdir, seeds.train(configured(), workdir)


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("one_by_one")
  return workdir, seeds.train(configured(), workdir)


@pytest.mark.parametrize(
  ("method", "kind", "chunked"),
  [
    ("okddip", "replicas", False),
    ("okddip", "branches", True),
    ("pcl", "branches", True),
    ("dml", "replicas", True),
    ("kd", "replicas", False),
  ],
)
@pytest.mark.parametrize(("data", "peer"), [(1, 1), (2, 2)])
def test_groups_at_once_equal_groups_alone(method, kind, chunked, data, peer):
  with jax.enable_x64(True):
    recipe = toys.recipe(
      method, kind=kind, data=data, peer=peer, dtype=jnp.float64
    )
    taught = runs.teacher(recipe)

    def trained(numbers):
      states = tuple(runs.start(recipe, seed) for seed in numbers)
      dispatch = Dispatch(
        recipe,
        [test_runner.source(recipe).reseeded(seed) for seed in numbers],
        states,
        [jax.random.key(seed) for seed in numbers],
        taught,
        chunked=chunked,
      )
      states = dispatch.run(states, 0, 5)
      return jax.device_get(states), dispatch.measured()

    together = trained((3, 4))
    for i, seed in enumerate((3, 4)):
      alone = trained((seed,))
      for found, expected in zip(together, alone, strict=True):
        runs.assert_close(found[i], expected[0], rtol=1e-9)
  states = together[0]
  assert any(
    np.any(a != b) for a, b in zip(*map(jax.tree.leaves, states), strict=True)
  )


def test_every_seed_has_records_of_its_own(at_once, one_by_one):
  for number, name in zip((3, 4), NAMES, strict=True):
    folders = at_once[0] / name, one_by_one[0] / name
    for folder in folders:
      assert json.loads((folder / "config.json").read_text())["seed"] == number
      assert (folder / "checkpoints" / "5.manifest.json").exists()
      assert (folder / "leader" / "weights.safetensors").exists()
    found, expected = map(logs.read_metrics, folders)
    assert [r["step"] for r in found] == [r["step"] for r in expected]
    for ours, theirs in zip(found, expected, strict=True):
      assert ours["kind"] == theirs["kind"]
      if ours["kind"] == "train":
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-4)
  assert [r["seed"] for r in at_once[1]] == [3, 4]


def test_a_seed_of_several_is_a_run_of_its_own(at_once, capsys):
  workdir = at_once[0] / "seed4"
  alone = configured(seed=4, num_seeds=1)
  state, found = train.train(alone, workdir)
  assert "finished" in capsys.readouterr().out
  assert int(state.step) == 5
  assert found["last"] == at_once[1][1]["last"]


def test_finished_seeds_are_left_alone_and_more_are_added(
  at_once, monkeypatch, capsys
):
  trained = []
  monkeypatch.setattr(
    seeds.train_lib,
    "train",
    lambda config, path, *_: trained.append((config.seed, path.name)),
  )
  again = seeds.train(configured(), at_once[0])
  assert again == at_once[1] and not trained
  seeds.train(configured(num_seeds=3), at_once[0])
  assert trained == [(5, "seed5")]


def test_a_single_run_refuses_several_seeds(tmp_path):
  with pytest.raises(ConfigError, match="num_seeds=2"):
    train.train(configured(), tmp_path)


def test_mean_and_deviation_are_shown(at_once, capsys):
  summary.show_results(at_once[1])
  shown = capsys.readouterr().out
  accuracies = [100 * r["last"]["test/leader/accuracy"] for r in at_once[1]]
  expected = f"{np.mean(accuracies):.2f} ± {np.std(accuracies, ddof=1):.2f}"
  assert "over 2 seeds" in shown and expected in shown


def test_a_broken_off_run_goes_on_at_once(at_once, tmp_path, monkeypatch):
  config = configured(checkpoint_secs=1e-9)
  saved = [
    tmp_path / name / "checkpoints" / "3.manifest.json" for name in NAMES
  ]
  check = finite.check_measures

  def stop(step, measured):
    if step == 4:
      while not all(path.exists() for path in saved):
        time.sleep(0.05)
      raise KeyboardInterrupt
    return check(step, measured)

  monkeypatch.setattr(finite, "check_measures", stop)
  with pytest.raises(KeyboardInterrupt):
    seeds.train(config, tmp_path)
  monkeypatch.undo()
  # As after a death between the saves of two seeds.
  saved[1].unlink()
  seeds.train(config, tmp_path)
  for name in NAMES:
    assert logs.read_metrics(tmp_path / name) == logs.read_metrics(
      at_once[0] / name
    )


def test_seeds_that_are_out_of_step_go_on_one_by_one(at_once, tmp_path, capsys):
  train.train(
    configured(seed=3, num_seeds=1, checkpoint_secs=1e-9, epochs=1),
    tmp_path / "seed3",
  )
  longer = configured(epochs=2)
  seeds.train(configured(seed=4, num_seeds=1, epochs=2), tmp_path / "seed4")
  (tmp_path / "seed4" / "summary.json").unlink()
  found = seeds.train(longer, tmp_path)
  assert "one by one" in capsys.readouterr().out
  assert [r["last"]["step"] for r in found] == [10, 10]


def test_a_new_seed_does_not_set_the_others_back(tmp_path, capsys):
  train.train(configured(num_seeds=1, checkpoint_secs=1e-9), tmp_path / "seed3")
  (tmp_path / "seed3" / "summary.json").unlink()
  seeds.train(configured(), tmp_path)
  shown = capsys.readouterr().out
  assert "one by one" in shown and "This run is finished" in shown


def test_a_seed_that_diverges_does_not_stop_the_others(tmp_path, monkeypatch):
  check = finite.check_measures

  def diverge(step, measured):
    # Told by a loss that only the first seed has.
    if step == 2 and first(measured):
      raise NotFiniteError("'peer_ce' is nan by step 2.")
    return check(step, measured)

  def first(measured):
    loss = float(np.sum(measured["terms"]["leader_ce"]))
    return abs(loss - bad) < 1e-3 * abs(bad)

  reference = tmp_path / "reference"
  seeds.train(configured(seed=3, num_seeds=1), reference)
  bad = next(
    r["leader_ce"] for r in logs.read_metrics(reference) if r["step"] == 2
  )
  monkeypatch.setattr(finite, "check_measures", diverge)
  with pytest.raises(NotFiniteError):
    seeds.train(configured(), tmp_path / "runs")
  assert not (tmp_path / "runs" / "seed3" / "summary.json").exists()
  assert (tmp_path / "runs" / "seed4" / "summary.json").exists()


@pytest.mark.parametrize("faster", ["one", "at once"])
def test_the_faster_way_is_measured_once(monkeypatch, tmp_path, faster):
  recipe = toys.recipe(data=2, peer=2)
  asked = []

  def measure(group, images, count):
    asked.append(count)
    return {"one": 1.0, "at once": 2.9 if faster == "at once" else 3.1}

  monkeypatch.setattr(autotune, "measure_seeds", measure)
  assert not autotune.seeds_at_once(recipe, 3, tmp_path)  # on CPU
  assert not asked
  test_autotune.on_accelerator(recipe, monkeypatch)
  for _ in range(2):
    chosen = autotune.seeds_at_once(recipe, 3, tmp_path)
    assert chosen == (faster == "at once")
  assert asked == [3]


def test_both_ways_are_timed():
  group = toys.recipe("independent").peers
  images = jnp.zeros((8, *toys.INFO.image_shape))
  images = jax.device_put(images, jax.devices()[0])
  seconds = autotune.measure_seeds(group, images, 2)
  assert set(seconds) == {"one", "at once"}
  assert all(value > 0 for value in seconds.values())
