"""The best step: which it is, that it is kept and deployed, and stopping."""

import dataclasses
import json

import jobs
import numpy as np
import pytest

from configs import okddip_digits
from okd_jax import train
from okd_jax.errors import ConfigError, Interrupted
from okd_jax.results import findings
from okd_jax.runs import (
  best as best_lib,
  outcome,
  records,
  run as run_lib,
  summary,
)
from okd_jax.settings import config as config_lib
from okd_jax.settings.freeze import freeze
from okd_jax.storage.checkpoint import Checkpoints
from okd_jax.tasks import classification
from okd_jax.tasks.figure import Figure, of_record, parse
from okd_jax.training import evaluate
import toys

TASK = classification.Task.of(toys.INFO)
LEADER = "validation/leader/accuracy"


def config(**changes):
  made = okddip_digits.get_config("smoke")
  made.peers.net = "toys:Quick"
  made.peers.num_peers = 3
  made.mesh.data = made.mesh.peer = 1
  made.epochs = 6
  made.data.validation = 0.2
  with made.unlocked():
    made.update(changes)
  return freeze(made)


def lines(values, name=LEADER):
  return [
    {"kind": "eval", "step": 5 * i, name: value}
    for i, value in enumerate(values, 1)
  ]


@pytest.mark.parametrize(
  ("values", "patience", "best", "ends"),
  [
    ([0.1, 0.3, 0.2], 0, 10, False),
    ([0.1, 0.3, 0.2], 1, 10, True),
    ([0.1, 0.3, 0.2], 2, 10, False),
    # Equal is as good, and not better.
    ([0.3, 0.3, 0.3], 2, 15, True),
    ([0.3, np.nan, 0.4], 2, 15, False),
    ([np.nan, np.nan], 2, None, True),
  ],
)
def test_a_run_ends_after_evaluations_that_are_no_better(
  values, patience, best, ends
):
  made = config(patience=patience, deploy="best")
  followed = best_lib.Best(made, TASK, lines(values))
  assert followed.exhausted == ends
  kept = [s for s in (5, 10, 15) if followed.score_at(s) is not None]
  assert kept == ([best] if best else [])
  last = best_lib.Best(config(), TASK, lines(values))
  assert last.score_at(best) is None  # nothing is kept unless it is deployed


def test_what_decides_may_be_named_and_low_may_be_good():
  name = "validation/ensemble/cross_entropy"
  made = config(best_by=name, deploy="best")
  followed = best_lib.Best(made, TASK, lines([0.5, 0.2, 0.9], name))
  assert followed.name == name and followed.score_at(10) is not None
  record = {LEADER: 0.5, "test/leader/accuracy": 0.4, "test/diversity": 1.0}
  assert best_lib.judge(config(), TASK, record) == LEADER
  del record[LEADER]
  assert best_lib.judge(config(), TASK, record) == "test/leader/accuracy"
  assert best_lib.judge(config(), TASK, {}) is None
  with pytest.raises(ConfigError, match="patience=2 must be 0: without"):
    best_lib.judge(config(patience=2), TASK, {})
  with pytest.raises(ConfigError, match="deploy='best' must be 'last': with"):
    best_lib.judge(config(deploy="best"), TASK, {})
  says = "is not measured; .* WHO of leader.* config.data.validation holds"
  with pytest.raises(ConfigError, match=says):
    best_lib.judge(made, TASK, record)


@pytest.mark.parametrize("name", ["accuracy", "train/leader/accuracy", "a/b"])
def test_names_of_no_figure_are_refused_early(name):
  with pytest.raises(ConfigError, match="must be the name of a figure"):
    config_lib.check(config(best_by=name))


def test_a_figure_that_is_not_measured_does_not_bind_the_folder(tmp_path):
  made = config(best_by="validation/nobody/accuracy")
  with pytest.raises(ConfigError, match="is not measured; .* WHO of leader"):
    train.train(made, tmp_path)
  assert not run_lib.exists(tmp_path)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_what_may_decide_is_what_is_measured(tmp_path, monkeypatch, decay):
  may, records_seen = [], []
  monkeypatch.setattr(train, "judge", lambda *args: may.extend(args[2]))
  made = config(best_by=LEADER, epochs=1, ema_decay=decay)
  train.train(made, tmp_path, watch=records_seen.append)
  measures = {measure.name for measure in TASK.measures}
  (record,) = records_seen
  measured = {n for n in record if n.rpartition("/")[2] in measures}
  assert set(may) == measured and len(may) == len(measured) > 20


@pytest.fixture
def rising(monkeypatch):
  """Evaluations whose best on validation data is the second of them."""
  follow(monkeypatch, [0.2, 0.9, 0.3, 0.3, 0.3, 0.4])


def follow(monkeypatch, values):
  """Gives the evaluations these figures on validation data, in turn."""
  values = iter(values)
  measured = evaluate.Evaluator.figures

  def figures(self, state, *splits):
    found = measured(self, state, *splits)
    value = next(values)
    return {
      figure: value if figure.name == LEADER else was
      for figure, was in found.items()
    }

  monkeypatch.setattr(evaluate.Evaluator, "figures", figures)


def test_the_best_step_is_kept_deployed_and_told(tmp_path, rising, capsys):
  made, seen = config(deploy="best", patience=3, log_steps=7), []
  state, result = train.train(made, tmp_path, watch=seen.append)
  assert [record["ended"] for record in seen] == [False] * 4 + [True]
  steps = Checkpoints(tmp_path / "checkpoints").steps()
  assert result["best"]["step"] in steps and result["best_by"] == LEADER
  second = records.read_evaluations(tmp_path)[1][0]
  assert result["best"]["step"] == second
  # It ended after three evaluations that were no better, and recorded all.
  assert len(records.read_evaluations(tmp_path)) == 5
  assert int(state.step) == result["last"]["step"] == 25  # of 30
  assert records.read_metrics(tmp_path)[-1]["step"] == int(state.step)
  # What is reopened, evaluated and exported is the second one.
  run = run_lib.run(tmp_path)
  assert run.step == int(run.state.step) == second
  card = json.loads((tmp_path / "leader" / "card.json").read_text())
  assert card["step"] == second
  said = " ".join(capsys.readouterr().out.split())
  assert "run ends early: 3 evaluations in a row without a better" in said
  # The same command finds the run ended, and says why.
  again, _ = train.train(made, tmp_path)
  assert int(again.step) == int(state.step)
  said = " ".join(capsys.readouterr().out.split())
  assert "Resuming" not in said
  assert "ended after step 25 of 30: 3 evaluations in a row without" in said
  # With more patience it is not finished, also for several seeds.
  assert outcome.finished(made, tmp_path) is not None
  patient = dataclasses.replace(made, patience=4)
  assert outcome.finished(patient, tmp_path) is None
  summary.show_results(made, [result])
  said = " ".join(capsys.readouterr().out.split())
  assert "on test and validation" in said and "validation: leader" in said
  assert f"the best {LEADER}. The test data had no part" in said


@pytest.mark.parametrize(
  ("values", "best"),
  [([np.nan, 0.9, 0.3, np.inf], 10), ([np.nan] * 4, 20)],
)
def test_what_is_not_finite_is_not_the_best(
  tmp_path, monkeypatch, values, best
):
  follow(monkeypatch, values)
  made = config(deploy="best", epochs=4)
  _, result = train.train(made, tmp_path)
  assert result["best"]["step"] == run_lib.run(tmp_path).step == best
  found = [(r["step"], of_record(r)) for r in lines(values)]
  for _, figures in found:
    test = Figure("test", "leader", False, "accuracy")
    figures[test] = figures[parse(LEADER)]
  rows = findings.headlines(found, TASK.headline(toys.INFO), 1)
  expected = 100 * values[best // 5 - 1]
  np.testing.assert_equal(rows["deployed", "best"], expected)


def test_an_interrupted_run_that_got_patience_is_not_finished(tmp_path, rising):
  few = config(patience=1)
  _, result = train.train(few, tmp_path)
  assert (result["last"]["step"], result["patience"]) == (15, 1)
  patient = dataclasses.replace(few, patience=9)
  with jobs.StopAt(2) as stop, pytest.raises(Interrupted):
    train.train(patient, tmp_path, stop=stop)
  assert outcome.finished(patient, tmp_path) is None
  _, result = train.train(patient, tmp_path)
  assert result["last"]["step"] == 30
  assert outcome.finished(patient, tmp_path) == result


def test_with_less_patience_a_run_goes_on_to_its_next_evaluation(
  tmp_path, rising
):
  with jobs.StopAt(17) as stop, pytest.raises(Interrupted):
    train.train(config(log_steps=50), tmp_path, stop=stop)
  state, result = train.train(config(log_steps=50, patience=1), tmp_path)
  steps = [result[key]["step"] for key in ("last", "terms")]
  assert [int(state.step), *steps] == [20, 20, 20]
  # It has ended, and stays so.
  again, _ = train.train(config(log_steps=50, patience=1), tmp_path)
  assert int(again.step) == 20


@pytest.mark.long
def test_choosing_by_test_data_is_told(tmp_path, capsys):
  made = okddip_digits.get_config("smoke")
  made.peers.net = "toys:Quick"
  made.peers.num_peers = 3
  made.mesh.data = made.mesh.peer = 1
  state, result = train.train(freeze(made), tmp_path)
  assert int(run_lib.run(tmp_path).state.step) == int(state.step)
  capsys.readouterr()
  summary.show_results(freeze(made), [result])
  said = " ".join(capsys.readouterr().out.split())
  assert "chosen by looking at the test data" in said
  assert "test: leader" not in said and "leader" in said
