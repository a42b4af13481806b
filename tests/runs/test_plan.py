"""The table before training."""

from pathlib import Path
import re
import runpy
import types

import pytest

from configs import independent_digits, kd_digits, pcl_digits
from okd_jax.runs import summary
from okd_jax.settings import idle
from okd_jax.settings.freeze import freeze
from okd_jax.training import average
import toys

ROOT = Path(__file__).parents[2]
SOURCE = types.SimpleNamespace(
  info=toys.INFO,
  train_size=50_000,
  positions={"validation": (), "test": range(10_000)},
  notes=(),
)


def test_one_network_is_no_group_of_one(capsys):
  config = independent_digits.get_config()
  config.peers.net, config.peers.num_peers = "toys:Toy", 1
  setup = toys.recipe("independent", num_peers=1)
  summary.show_plan(freeze(config), setup, SOURCE)
  plan = capsys.readouterr().out
  for line in (r"method +independent", r"peers +toys:Toy"):
    assert re.search(rf"^{line} *$", plan, re.MULTILINE), plan
  assert "50,000 to train, 0 to validate, 10,000 to test" in plan


def test_a_teacher_is_named(capsys):
  config = kd_digits.get_config()
  config.peers.net, config.teacher = "toys:Toy", "runs/teacher"
  summary.show_plan(freeze(config), toys.recipe("kd", num_peers=1), SOURCE)
  assert re.search(r"^teacher +runs/teacher *$", capsys.readouterr().out, re.M)


@pytest.mark.parametrize(
  ("method", "decay", "epochs", "key"),
  [
    ("pcl", None, 480, "config.method.ema_decay=0.996"),
    ("pcl", None, 1601, None),
    ("dml", 0.99, 4, "config.ema_decay=0.6"),
    ("dml", 0.99, 161, None),
    ("dml", None, 4, None),
  ],
)
def test_averages_over_much_of_a_run_are_noted(method, decay, epochs, key):
  setup = toys.recipe(method, ema_decay=decay, epochs=epochs)
  said = average.note(setup)
  assert bool(said) == bool(key)
  if key:
    assert f"steps and the run has {setup.total_steps:,}, so" in said
    assert said.endswith(f"{key} fits.")
    fits = float(key.partition("=")[2])
    assert 1 / (1 - fits) <= setup.total_steps / 4


def test_the_decay_that_is_named_fits():
  for total in (*range(1, 5000), 99_999, 100_000, 117_000):
    run = types.SimpleNamespace(
      average_decay=0.99999, ema_decay=0.99999, total_steps=total
    )
    said = average.note(run)
    assert bool(said) == (total >= 10), total
    if said:
      fits = float(said.partition("ema_decay=")[2].removesuffix(" fits."))
      assert 0 < fits < 1
      run.average_decay = fits
      assert not average.note(run), total


def test_the_note_on_averages_is_in_the_plan(capsys):
  config = pcl_digits.get_config()
  config.peers.net = "toys:Toy"
  summary.show_plan(freeze(config), toys.recipe("pcl"), SOURCE)
  assert re.search("^note +averages reach back", capsys.readouterr().out, re.M)


def test_settings_without_effect_are_noted(capsys):
  config = independent_digits.get_config()
  assert not [*idle.notes(freeze(config))]
  config.peers.net, config.peers.num_peers = "toys:Toy", 1
  config.augment.level, config.optim.beta1 = 12, 0.8
  config.schedule.final = 0.1
  config.data.image_size, config.data.keypoints.rotation = 64, 5.0
  summary.show_plan(
    freeze(config), toys.recipe("independent", num_peers=1), SOURCE
  )
  plan = capsys.readouterr().out
  for said in (
    "augment.level=12 has no effect with config.augment.policy=none",
    "optim.beta1=0.8 has no effect with config.optim.name=sgd",
    "schedule.final=0.1 has no effect with config.schedule.name=multistep",
    "data.image_size=64 has no effect with config.data.name=digits",
    "data.keypoints.rotation=5.0 has no effect with config.data.name=digits",
  ):
    assert re.search(rf"^note +config.{said}", plan, re.M), plan
  config.augment.policy, config.optim.name = "rand_augment", "adamw"
  config.schedule.name, config.data.name = "cosine", "keypoints:people"
  assert not [*idle.notes(freeze(config))]


def test_recipes_set_nothing_without_effect():
  for path in sorted((ROOT / "configs").glob("*_digits.py")):
    config = runpy.run_path(str(path))["get_config"]()
    if "base" not in config:
      assert not [*idle.notes(freeze(config))], path
