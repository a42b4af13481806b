"""More epochs for a run that has begun, or is finished."""

import shutil

import jax
import jobs
import numpy as np
import pytest

from configs import common, okddip_digits
from okd_jax import train
from okd_jax.errors import CheckpointError, ConfigError, Interrupted
from okd_jax.runs import records, run as run_lib
from okd_jax.settings import build
from okd_jax.settings.freeze import freeze


def tiny(**changes):
  """Five steps an epoch; the rate drops in the middle."""
  config = okddip_digits.get_config("smoke")
  config.peers.net, config.peers.num_peers = "own_networks:Small", 2
  config.method = common.method("independent")
  config.mesh.data = 1
  config.epochs, config.optim.drops = 2, (0.5,)
  config.update_from_flattened_dict(changes)
  return freeze(config)


def assert_equal(one, other):
  pair = jax.device_get((one, other))
  jax.tree.map(np.testing.assert_array_equal, *pair)


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
  """A run that was begun with an extra epoch."""
  workdir = tmp_path_factory.mktemp("longer")
  return train.train(tiny(extra_epochs=1), workdir)[0], workdir


@pytest.mark.checklist("B1")
def test_a_finished_run_goes_on_as_if_begun_longer(longer, tmp_path, capsys):
  state, _ = train.train(tiny(), tmp_path)
  assert int(state.step) == 10
  state, result = train.train(tiny(extra_epochs=1), tmp_path)
  assert (int(state.step), result["epochs"]) == (15, 3)
  assert_equal(state, longer[0])
  assert "2 epochs and 1 more, 15 steps" in capsys.readouterr().out
  found, expected = (records.read_metrics(p) for p in (tmp_path, longer[1]))
  # Beside the record of the end that was not the end after all.
  assert [r for r in found if r in expected] == expected
  # The schedules keep what they ended with.
  rates = {r["step"]: r["learning_rate"] for r in found if r["kind"] == "train"}
  assert rates[11] == rates[15] == rates[10] < rates[1]


@pytest.mark.checklist("G2")
def test_another_number_of_epochs_is_refused_with_the_remedy(longer):
  with pytest.raises(ConfigError) as refused:
    train.train(tiny(epochs=4, rampup_epochs=1), longer[1])
  assert "config.rampup_epochs" not in str(refused.value)
  assert "config.extra_epochs" in str(refused.value)
  assert "epochs=4 must be 2" in str(refused.value)
  # The ramp-up of a recipe follows from the epochs.
  with pytest.raises(ConfigError, match="(?s)rampup_epochs: 1.*extra_epochs"):
    train.train(tiny(epochs=4, rampup_epochs=2), longer[1])


def test_fewer_epochs_than_a_run_has_begun_are_refused(longer):
  expected = "config.extra_epochs=0 are fewer than the 3 .*extra_epochs to 1 or"
  with pytest.raises(ConfigError, match=expected):
    train.train(tiny(), longer[1])


@pytest.mark.parametrize("log_steps, eval_epochs", [(50, 1), (1, 3), (7, 3)])
def test_an_end_that_was_not_recorded_as_one_is_refused(
  tmp_path, log_steps, eval_epochs
):
  made = {"log_steps": log_steps, "eval_epochs": eval_epochs}
  with jobs.StopAt(10) as stop, pytest.raises(Interrupted, match="step 10"):
    train.train(tiny(extra_epochs=2, **made), tmp_path, stop=stop)
  expected = "end .* at step 10, .* has no eval.*extra_epochs to 1 or more"
  with pytest.raises(ConfigError, match=expected):
    train.train(tiny(**made), tmp_path)
  _, result = train.train(tiny(extra_epochs=1, **made), tmp_path)
  assert result["last"]["step"] == result["terms"]["step"] == 15


def test_a_finished_run_without_its_records_is_refused(longer, tmp_path):
  workdir = shutil.copytree(longer[1], tmp_path / "run")
  (workdir / "metrics.jsonl").write_text("")
  with pytest.raises(
    ConfigError, match="end .* at step 15, .*extra_epochs to 2 or"
  ):
    train.train(tiny(extra_epochs=1), workdir)
  # What is said of fewer epochs can be followed.
  with pytest.raises(ConfigError, match="fewer than the 3 .*extra_epochs to 2"):
    train.train(tiny(), workdir)
  (workdir / "metrics.jsonl").unlink()
  with pytest.raises(
    ConfigError, match="end .* at step 15, .*extra_epochs to 2 or"
  ):
    train.train(tiny(extra_epochs=1), workdir)


def test_a_finished_run_without_its_manifests_is_not_begun_anew(
  longer, tmp_path
):
  workdir = shutil.copytree(longer[1], tmp_path / "run")
  for path in (workdir / "checkpoints").glob("*.manifest.json"):
    path.unlink()
  before = (workdir / "metrics.jsonl").read_bytes()
  with pytest.raises(CheckpointError, match="a finished run, .*restore them"):
    train.train(tiny(extra_epochs=1), workdir)
  assert (workdir / "metrics.jsonl").read_bytes() == before


@pytest.mark.long
def test_epochs_that_change_no_schedule_may_be_added(tmp_path):
  fixed = {"optim.drops": (), "rampup_epochs": 1}
  train.train(tiny(epochs=1, **fixed), tmp_path / "a")
  state, _ = train.train(tiny(epochs=2, **fixed), tmp_path / "a")
  assert int(state.step) == 10
  assert_equal(state, train.train(tiny(**fixed), tmp_path / "b")[0])


@pytest.mark.parametrize(
  "name, final, learns",
  [
    ("multistep", 0.0, True),
    ("constant", 0.0, True),
    ("cosine", 0.0, False),
    ("cosine", 0.5, True),
    ("linear", 0.0, False),
    ("linear", 0.5, True),
    ("linear", 1e-7, False),
    ("one_cycle", 0.0, False),
  ],
)
def test_extra_epochs_at_a_rate_near_zero_are_refused(
  longer, name, final, learns
):
  run = run_lib.run(longer[1])
  config = tiny(
    extra_epochs=1, **{"schedule.name": name, "schedule.final": final}
  )
  if not learns:
    expected = f"extra_epochs=1 must be 0: the schedule {name}.*init_from"
    with pytest.raises(ConfigError, match=expected):
      build.setup(config, run.info, 100, run.setup.mesh)
    return
  made = build.setup(config, run.info, 100, run.setup.mesh)
  rates = np.broadcast_to(made.learning_rate(np.arange(15)), 15)
  share = final or {"multistep": config.optim.factor, "constant": 1}[name]
  np.testing.assert_allclose(rates[10:], share * config.optim.learning_rate)
