"""Several seeds: each as if it were trained alone."""

import json
import signal
import time

import numpy as np
import pytest

from configs import okddip_digits
from okd_jax import seeds, train
from okd_jax.errors import ConfigError, Interrupted, NotFiniteError
from okd_jax.runs import records, summary
from okd_jax.settings.freeze import freeze
from okd_jax.training import finite

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
def trained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("trained")
  return workdir, seeds.train(configured(), workdir)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("alone")
  train.train(configured(seed=4, num_seeds=1), workdir)
  return workdir


def test_every_seed_has_records_of_its_own(trained):
  for number, name in zip((3, 4), NAMES, strict=True):
    folder = trained[0] / name
    assert json.loads((folder / "config.json").read_text())["seed"] == number
    assert (folder / "checkpoints" / "5.manifest.json").exists()
    assert (folder / "leader" / "weights.safetensors").exists()
  assert [r["seed"] for r in trained[1]] == [3, 4]
  losses = [
    records.read_metrics(trained[0] / name)[0]["loss"] for name in NAMES
  ]
  assert losses[0] != losses[1]


def test_a_seed_of_several_is_trained_as_if_alone(trained, alone):
  found = records.read_metrics(trained[0] / "seed4")
  assert found == records.read_metrics(alone)


def test_a_seed_of_several_is_a_run_of_its_own(trained, capsys):
  workdir = trained[0] / "seed4"
  alone = configured(seed=4, num_seeds=1)
  state, found = train.train(alone, workdir)
  assert "finished" in capsys.readouterr().out
  assert int(state.step) == 5
  assert found["last"] == trained[1][1]["last"]


def test_finished_seeds_are_left_alone_and_more_are_added(
  trained, monkeypatch, capsys
):
  asked = []
  monkeypatch.setattr(
    seeds.train_lib,
    "train",
    lambda config, path, *_, like: asked.append(
      (config.seed, path.name, like.name)
    ),
  )
  again = seeds.train(configured(), trained[0])
  assert again == trained[1] and not asked
  seeds.train(configured(num_seeds=3), trained[0])
  assert asked == [(5, "seed5", "seed3")]


@pytest.mark.parametrize(
  ("there", "number", "says"),
  [
    ("", 2, "num_seeds=2: .* holds a run of one seed; choose another"),
    ("seed3", 1, "num_seeds=1: .* runs of several seeds .seed3.; choose"),
  ],
)
def test_one_run_and_several_seeds_do_not_share_a_folder(
  tmp_path, there, number, says
):
  (tmp_path / there).mkdir(exist_ok=True)
  (tmp_path / there / "config.json").write_text("{}")
  with pytest.raises(ConfigError, match=says):
    seeds.train(configured(num_seeds=number), tmp_path)


def test_seeds_beyond_the_largest_are_refused_before_the_first(tmp_path):
  with pytest.raises(ConfigError, match="config.seed=2147483648 must be"):
    seeds.train(configured(seed=2**31 - 1), tmp_path)
  assert not list(tmp_path.iterdir())


def test_a_single_run_refuses_several_seeds(tmp_path):
  with pytest.raises(ConfigError, match="num_seeds=2"):
    train.train(configured(), tmp_path)


def test_mean_and_deviation_are_shown(trained, capsys):
  summary.show_results(configured(), trained[1])
  shown = capsys.readouterr().out
  accuracies = [100 * r["last"]["test/leader/accuracy"] for r in trained[1]]
  expected = f"{np.mean(accuracies):.2f} ± {np.std(accuracies, ddof=1):.2f}"
  assert "over 2 seeds" in shown and expected in shown


def test_a_broken_off_run_goes_on(trained, tmp_path, monkeypatch):
  config = configured(checkpoint_secs=1e-9)
  check = finite.check_measures
  calls = []

  def stop(step, measured):
    calls.append(step)
    if calls == [1, 2, 3, 4, 5, 1, 2, 3, 4]:  # in the second seed
      raise KeyboardInterrupt
    return check(step, measured)

  monkeypatch.setattr(finite, "check_measures", stop)
  with pytest.raises(KeyboardInterrupt):
    seeds.train(config, tmp_path)
  monkeypatch.undo()
  seeds.train(config, tmp_path)
  for name in NAMES:
    assert records.read_metrics(tmp_path / name) == records.read_metrics(
      trained[0] / name
    )


@pytest.mark.long
def test_seeds_that_are_out_of_step_go_on(tmp_path):
  train.train(configured(num_seeds=1, checkpoint_secs=1e-9), tmp_path / "seed3")
  (tmp_path / "seed3" / "summary.json").unlink()
  found = seeds.train(configured(extra_epochs=1), tmp_path)
  assert [r["last"]["step"] for r in found] == [10, 10]


def test_a_signal_between_two_seeds_is_heard(tmp_path, monkeypatch):
  trained = []

  def train_one(config, path, began, stop, like):
    trained.append(path.name)
    signal.raise_signal(signal.SIGTERM)
    while not stop.requested:  # heard by a thread
      time.sleep(0.01)

  monkeypatch.setattr(seeds.train_lib, "train", train_one)
  with pytest.raises(Interrupted, match="before seed4"):
    seeds.train(configured(), tmp_path)
  assert trained == ["seed3"]


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
    r["leader_ce"] for r in records.read_metrics(reference) if r["step"] == 2
  )
  monkeypatch.setattr(finite, "check_measures", diverge)
  with pytest.raises(NotFiniteError):
    seeds.train(configured(), tmp_path / "runs")
  assert not (tmp_path / "runs" / "seed3" / "summary.json").exists()
  assert (tmp_path / "runs" / "seed4" / "summary.json").exists()
