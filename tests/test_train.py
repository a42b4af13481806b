"""Whole runs: from the command to the summary, resumed, refused."""

import dataclasses
import json
import math
from pathlib import Path
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common, okddip_digits
from okd_jax import train
from okd_jax.errors import CheckpointError, ConfigError, NotFiniteError
from okd_jax.runs import records as records_lib
from okd_jax.settings import config as config_lib
from okd_jax.settings.freeze import flatten, freeze
from okd_jax.storage import arrays, checkpoint, manifest
from okd_jax.training import finite

ROOT = Path(__file__).resolve().parents[1]


def tiny(**changes):
  """A run of 12 steps on a hundred digits."""
  config = okddip_digits.get_config("smoke")
  config.peers.net = "toys:Toy"
  config.peers.num_peers = 3
  config.mesh.data = 1
  config.epochs = 2
  config.batch_size = 16
  config.eval_epochs = 1
  config.checkpoint_secs = 1e6
  config.update_from_flattened_dict(changes)
  return freeze(config)


class Stopped(Exception):
  """Ends a run in the middle, as a lost machine would."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """An undisturbed run, with a checkpoint after every step."""
  workdir = tmp_path_factory.mktemp("whole")
  state, summary = train.train(tiny(checkpoint_secs=1e-9), workdir)
  return workdir, jax.device_get(state), summary


def test_workdir_has_what_a_user_looks_for(whole):
  workdir, _, summary = whole
  for name in ("config.json", "metrics.jsonl", "metrics.csv", "summary.json"):
    assert (workdir / name).stat().st_size, name
  assert list(workdir.glob("events.out.tfevents*")) or list(
    workdir.glob("*/events.out.tfevents*")
  )
  assert json.loads((workdir / "summary.json").read_text()) == summary
  records = records_lib.read_metrics(workdir)
  steps = [r["step"] for r in records if r["kind"] == "train"]
  assert steps == list(range(1, 14))
  names = set(records[0])
  assert {"peer_ce", "peer_kd", "leader_ce", "leader_kd", "loss"} <= names
  last = summary["last"]
  assert (
    last["step"] == 13
    and last["test/leader/accuracy"] == (last["test/peer_2/accuracy"])
  )


@pytest.mark.parametrize(
  "stop_after", [pytest.param(1, marks=pytest.mark.slow), 7]
)
@pytest.mark.checklist("B1")
def test_resumed_run_is_the_same_to_the_last_bit(
  whole, tmp_path, stop_after, monkeypatch
):
  # 100 examples in batches of 16: the first epoch ends inside step 7.
  _, expected, summary = whole
  check = finite.check_measures

  def stop(step, measured):
    if step == stop_after + 1:
      raise Stopped
    return check(step, measured)

  monkeypatch.setattr(finite, "check_measures", stop)
  with pytest.raises(Stopped):
    train.train(tiny(checkpoint_secs=1e-9), tmp_path)
  monkeypatch.undo()
  state, again = train.train(tiny(checkpoint_secs=1e-9), tmp_path)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), expected)
  assert again["last"] == summary["last"]
  assert records_lib.read_metrics(tmp_path) == records_lib.read_metrics(
    whole[0]
  )


@pytest.mark.checklist("B1")
def test_records_are_means_of_the_same_steps_in_a_resumed_run(
  whole, tmp_path, monkeypatch
):
  every_step = [
    r for r in records_lib.read_metrics(whole[0]) if r["kind"] == "train"
  ]
  config = tiny(checkpoint_secs=1e-9, log_steps=4)
  check = finite.check_state

  def stop(step, state):
    if step == 7:
      raise Stopped
    return check(step, state)

  monkeypatch.setattr(finite, "check_state", stop)
  with pytest.raises(Stopped):
    train.train(config, tmp_path)
  monkeypatch.undo()
  train.train(config, tmp_path)
  records = [
    r for r in records_lib.read_metrics(tmp_path) if r["kind"] == "train"
  ]
  assert [r["step"] for r in records] == [4, 8, 12, 13]
  first = 0
  for record in records:
    steps = every_step[first : record["step"]]
    first = record["step"]
    for name in ("loss", "peer_kd", "accuracy", "gradient_norm"):
      mean = np.mean([r[name] for r in steps])
      np.testing.assert_allclose(record[name], mean, rtol=1e-6, err_msg=name)
    for name in ("learning_rate", "rampup"):
      assert record[name] == steps[-1][name]


def test_a_run_that_fails_waits_for_its_save(tmp_path, monkeypatch):
  check, save = finite.check_state, arrays.save

  def fail(step, state):
    if step == 3:
      raise Stopped
    return check(step, state)

  def slowly(*args):
    time.sleep(0.3)
    return save(*args)

  monkeypatch.setattr(finite, "check_state", fail)
  monkeypatch.setattr(arrays, "save", slowly)
  with pytest.raises(Stopped):
    train.train(tiny(checkpoint_secs=1e-9), tmp_path)
  assert checkpoint.Checkpoints(tmp_path / "checkpoints").latest_verified() == 2


def test_finished_run_says_so_and_changes_nothing(whole, capsys):
  workdir, expected, summary = whole
  before = (workdir / "metrics.jsonl").read_bytes()
  state, again = train.train(tiny(checkpoint_secs=1e-9), workdir)
  assert "finished" in capsys.readouterr().out
  assert again == summary
  assert (workdir / "metrics.jsonl").read_bytes() == before
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), expected)


@pytest.mark.checklist("C2")
@pytest.mark.parametrize("harm", ["damaged", "unreadable"])
def test_a_run_without_a_usable_checkpoint_is_not_begun_anew(
  whole, tmp_path, monkeypatch, harm
):
  workdir = shutil.copytree(whole[0], tmp_path / "run")
  if harm == "damaged":
    for path in (workdir / "checkpoints").glob("*.manifest.json"):
      path.write_text("{}")
  else:

    def fail(path):
      raise OSError(5, "Input/output error")

    monkeypatch.setattr(manifest, "_fingerprint", fail)
  before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
  expected = {"damaged": "13.manifest.json is dam", "unreadable": "Input/out"}
  with pytest.raises(CheckpointError, match=f"{expected[harm]}.*Try again if"):
    train.train(tiny(checkpoint_secs=1e-9), workdir)
  monkeypatch.undo()
  after = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
  assert after == before | {p: after[p] for p in workdir.glob("run.lock*")}


@pytest.mark.checklist("G2")
def test_other_configuration_in_the_same_workdir_is_refused(whole):
  changed = tiny(**{"method.temperature": 4.0, "optim.momentum": 0.8})
  with pytest.raises(ConfigError) as error:
    train.train(changed, whole[0])
  for part in ("method.temperature", "3.0", "4.0", "optim.momentum"):
    assert part in str(error.value)


@pytest.mark.parametrize("epochs", [None, "two", 0])
def test_a_damaged_number_of_epochs_is_refused(whole, tmp_path, epochs):
  workdir = shutil.copytree(whole[0], tmp_path / "run")
  saved = json.loads((workdir / "config.json").read_text())
  (workdir / "config.json").write_text(json.dumps(saved | {"epochs": epochs}))
  with pytest.raises(ConfigError, match="is damaged"):
    train.train(tiny(checkpoint_secs=1e-9), workdir)


@pytest.mark.parametrize("name", ["config.json", "data.json"])
def test_a_damaged_file_that_was_removed_is_written_again(
  whole, tmp_path, name
):
  workdir = shutil.copytree(whole[0], tmp_path / "run")
  (workdir / name).unlink()
  # As the messages about such files advise.
  train.train(tiny(checkpoint_secs=1e-9), workdir)
  assert (workdir / name).read_text() == (whole[0] / name).read_text()


def test_a_value_that_is_not_a_number_is_refused_by_its_rule(tmp_path):
  # It is not equal to itself, and processes must have equal settings.
  config = tiny(**{"optim.learning_rate": math.nan})
  with pytest.raises(ConfigError, match="learning_rate=nan must be a finite"):
    train.train(config, tmp_path)


@pytest.mark.checklist("E1")
def test_not_finite_loss_stops_the_run_and_is_not_saved(tmp_path):
  config = tiny(**{"optim.learning_rate": 1e30})
  with pytest.raises(NotFiniteError, match="by step"):
    train.train(config, tmp_path)
  assert not list((tmp_path / "checkpoints").glob("*.manifest.json"))


@pytest.mark.checklist("E1")
def test_not_finite_peer_is_named():
  terms = {"peer_ce": jnp.array([1.0, jnp.nan, 2.0]), "leader_ce": jnp.ones(())}
  measured = {
    "terms": terms,
    "figures": {"accuracy": jnp.zeros(3)},
    "learning_rate": 0.1,
    "rampup": 1.0,
    "gradient_norm": jnp.ones(()),
    "summaries": {},
  }
  with pytest.raises(NotFiniteError, match="'peer_ce' of peer 1 .* 7"):
    finite.check_measures(7, measured)


@pytest.mark.checklist("E1")
def test_not_finite_state_is_named(whole):
  state = jax.tree.map(jnp.asarray, whole[1])
  leaf = state.memory["peers"]["batch_stats"]["stage1_norm"]
  leaf["var"] = leaf["var"].at[1, 0].set(jnp.inf)
  with pytest.raises(NotFiniteError, match=r"stage1_norm.*var.*index 1"):
    finite.check_state(3, state)


@pytest.mark.checklist("E1")
def test_only_what_an_optimizer_keeps_for_a_parameter_must_be_finite(whole):
  params = jax.tree.map(jnp.asarray, whole[1].params)
  made = optax.chain(optax.adam(1.0), optax.contrib.reduce_on_plateau())
  state = dataclasses.replace(
    jax.tree.map(jnp.asarray, whole[1]), opt_state=made.init(params)
  )
  assert not np.isfinite(state.opt_state[1].best_value)
  finite.check_state(3, state)
  leaf = state.opt_state[0][0].mu["peers"]["stage1_norm"]
  leaf["scale"] = leaf["scale"].at[1, 0].set(jnp.nan)
  with pytest.raises(NotFiniteError, match=r"opt_state.*stage1_norm.*index 1"):
    finite.check_state(3, state)


def recipes():
  """Every recipe, by module name."""
  return sorted(
    path.stem
    for path in (ROOT / "configs").glob("*_*.py")
    if not path.stem.startswith(("_", "compare"))
  )


@pytest.mark.parametrize("name", recipes())
@pytest.mark.checklist("K2")
def test_every_recipe_passes_the_checks(name):
  module = __import__(f"configs.{name}", fromlist=["get_config"])
  config, smoke = module.get_config(), module.get_config("smoke")
  for each in (config, smoke):
    if each.method.name in ("kd", "ctkd"):
      each.teacher = str(ROOT)  # any folder will do until it is read
    config_lib.check(freeze(each))
  assert flatten(config).keys() == flatten(smoke).keys()
  assert f"configs/{name}.py" in module.__doc__


def test_short_runs_scale_the_ramp_up():
  config = common.base()
  assert config.rampup_epochs == 80
  for epochs, expected in ((30, 8), (10, 3), (1, 0), (90, 24)):
    config.epochs = epochs
    assert config.rampup_epochs == expected == round(epochs * 80 / 300)


def run_main(*args):
  return subprocess.run(
    [sys.executable, "main.py", *args],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=200,
  )


@pytest.mark.long
def test_command_trains_and_goes_on(tmp_path):
  command = [
    "--config=configs/okddip_digits.py:smoke,branches",
    f"--workdir={tmp_path / 'run'}",
    "--config.epochs=1",
    "--config.peers.num_peers=3",
    "--config.mesh.data=1",
  ]
  done = run_main(*command)
  assert done.returncode == 0, done.stderr
  for word in ("Plan", "branches of resnet8", "First step after", "leader"):
    assert word in done.stdout
  assert (tmp_path / "run" / "plots" / "loss.png").stat().st_size
  again = run_main(*command)
  assert again.returncode == 0 and "finished" in again.stdout, again.stderr
