"""A study by Optuna: its choices, what it goes on with, prunes and refuses."""

import dataclasses
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import optuna
import pytest

from configs import independent_stickfolk
from okd_jax import __main__, search, search_space, train
from okd_jax.cli import common as cli
from okd_jax.data.keypoints import stickfolk
from okd_jax.errors import (
  ConfigError,
  DataError,
  Interrupted,
  LeaderError,
  NotFiniteError,
  WeightsError,
)
from okd_jax.settings import ranges
from okd_jax.settings.freeze import freeze
from okd_jax.tasks.figure import parse

JUDGE = "validation/leader/accuracy"
RECIPE = (
  "--config=configs/okddip_digits.py:smoke",
  "--config.peers.net=toys:Quick",
  "--config.peers.num_peers=2",
  "--config.mesh.data=1",
  "--config.data.validation=0.2",
)
SEARCHED = (
  "--search.optim.learning_rate=log:0.001..0.1",
  "--search.batch_size=10..20",
)


def read(*flags):
  rest, texts = ranges.take(flags, "search")
  config, _ = cli.read_recipe(["search", *RECIPE, *rest])
  return config, search_space.space(config, texts)


@pytest.fixture
def pretending(monkeypatch):
  """Runs of no time, which are the better, the higher their rate is."""
  ran, events = [], {}

  def fake(config, workdir, stop, watch, like):
    number = len(ran)
    rate = config.optim.learning_rate
    ran.append((workdir.name, rate, config.batch_size))
    watch({"epoch": 1, "ended": False, JUDGE: rate})
    if number in events:
      raise events[number]
    watch({"epoch": 2, "ended": True, JUDGE: 2 * rate})
    return None, {"last": {JUDGE: 2 * rate}}

  monkeypatch.setattr(train, "train", fake)
  return ran, events


@pytest.mark.parametrize("trials", [0, -3])
def test_a_search_of_no_trials_is_refused(trials, tmp_path):
  with pytest.raises(ConfigError, match=f"--trials={trials} must be at least"):
    search.search(*read(*SEARCHED), trials, tmp_path / "none")


def test_an_interrupted_search_makes_the_same_choices(pretending, tmp_path):
  ran, events = pretending
  config, looked = read(*SEARCHED)
  judge, whole = search.search(config, looked, 6, tmp_path / "whole")
  assert judge.name == JUDGE
  undisturbed = ran.copy()
  ran.clear()
  events[2] = Interrupted("stopped")
  with pytest.raises(Interrupted):
    search.search(config, looked, 6, tmp_path / "broken")
  _, broken = search.search(config, looked, 6, tmp_path / "broken")
  # The interrupted trial goes on in its folder, and then the others follow.
  assert ran == [*undisturbed[:3], *undisturbed[2:]]
  for one, other in zip(whole, broken, strict=True):
    assert one.params == other.params and one.values == other.values
    assert one.state == other.state
  for _, rate, batch_size in ran:
    assert 0.001 <= rate <= 0.1 and batch_size in range(10, 21)
  # Nothing is left to do.
  ran.clear()
  search.search(config, looked, 6, tmp_path / "broken")
  assert not ran


def test_values_that_do_not_go_together_do_not_stop_it_for_good(
  pretending, tmp_path, caplog
):
  ran, events = pretending
  events |= {0: ConfigError("must be odd"), 2: ConfigError("must be even")}
  config, looked = read(*SEARCHED)
  # Perhaps nothing can be trained so.
  with pytest.raises(ConfigError, match="must be odd"):
    search.search(config, looked, 4, tmp_path)
  _, trials = search.search(config, looked, 4, tmp_path)
  states = [trial.state.name for trial in trials]
  assert states == ["FAIL", "COMPLETE", "FAIL", "COMPLETE"]
  assert [name for name, *_ in ran] == [f"trial{i}" for i in range(4)]
  assert "Trial 2 has values that do not fit: must be even" in caplog.text


@pytest.mark.parametrize("kind", [DataError, WeightsError, LeaderError])
def test_data_and_weights_that_do_not_fit_fail_their_trial(
  pretending, tmp_path, kind
):
  ran, events = pretending
  events |= {0: kind("10 images of class 0"), 2: kind("10 images of class 0")}
  chosen = "--search.data.per_class=(2,5)"
  # Perhaps nothing can be trained so.
  with pytest.raises(kind):
    search.search(*read(chosen), 4, tmp_path / "chosen")
  _, trials = search.search(*read(chosen), 4, tmp_path / "chosen")
  states = [trial.state.name for trial in trials]
  assert states == ["FAIL", "COMPLETE", "FAIL", "COMPLETE"]
  # What no searched value can be the reason of ends the search until mended.
  ran.clear()
  rates = read("--search.optim.learning_rate=log:0.001..0.1")
  with pytest.raises(kind):
    search.search(*rates, 2, tmp_path / "rates")
  events.clear()
  _, trials = search.search(*rates, 2, tmp_path / "rates")
  assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2
  assert [name for name, *_ in ran] == ["trial0", "trial0", "trial1"]


def test_a_search_without_a_trained_trial_has_failed(
  pretending, tmp_path, capsys
):
  _, events = pretending
  events |= {0: NotFiniteError("diverged"), 1: NotFiniteError("diverged")}
  flags = ["search", *RECIPE, f"--workdir={tmp_path}", "--trials=2"]
  with pytest.raises(SystemExit) as left:
    __main__.main([*flags, SEARCHED[0]])
  assert left.value.code == ConfigError.exit_code
  assert (
    "none of the 2 trials was trained to its end" in capsys.readouterr().err
  )


def test_a_trial_whose_values_were_not_drawn_gets_them(
  pretending, tmp_path, monkeypatch
):
  config, looked = read(*SEARCHED)
  search.search(config, looked, 2, tmp_path / "whole")
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    # As if the process were killed as soon as the trial has its number.
    patch.setattr(optuna.Study, "ask", begin_and_die)
    search.search(config, looked, 2, tmp_path / "broken")
  search.search(config, looked, 2, tmp_path / "broken")
  ran = pretending[0]
  assert ran[2:] == ran[:2]


def begin_and_die(study, looked):
  study._storage.create_new_trial(study._study_id)
  raise KeyboardInterrupt


def test_trials_behind_most_others_are_pruned(pretending, tmp_path):
  ran, events = pretending
  events[1] = NotFiniteError("diverged")
  config, looked = read(*SEARCHED)
  _, trials = search.search(config, looked, 12, tmp_path)
  states = [trial.state.name for trial in trials]
  assert states[1] == "FAIL" and "PRUNED" in states
  pruned = [t for t in trials if t.state.name == "PRUNED"]
  finished = [t.values[0] for t in trials if t.values]
  for trial in pruned:
    assert set(trial.intermediate_values) < {1, 2}
    assert 2 * trial.params["optim.learning_rate"] < max(finished)


def test_trials_meet_those_of_other_batch_sizes_at_the_same_epoch(
  monkeypatch, tmp_path
):
  def figures(evaluator, state):
    epoch = evaluator._setup.clock.epoch(int(state.step))
    return {parse(JUDGE): epoch / 10}

  monkeypatch.setattr(train.Evaluator, "figures", figures)
  monkeypatch.setattr(train, "_export_and_plot", lambda run: None)
  config, looked = read("--search.batch_size=(10,20)", "--config.epochs=4")
  _, trials = search.search(config, looked, 7, tmp_path)
  assert {trial.params["batch_size"] for trial in trials} == {10, 20}
  assert {trial.state.name for trial in trials} == {"COMPLETE"}


def test_another_trial_needs_the_data_and_teacher_of_the_others(
  monkeypatch, tmp_path
):
  asked = []

  def fake(config, workdir, stop, watch, like):
    asked.append((config.data.flip, like))
    return None, {"last": {JUDGE: 0.5}}

  monkeypatch.setattr(train, "train", fake)
  config, looked = read("--search.data.flip=(True,False)")
  search.search(config, looked, 6, tmp_path)
  begun = {}
  for number, (flip, like) in enumerate(asked):
    assert like == begun.get(flip)
    begun.setdefault(flip, tmp_path / f"trial{number}")
  assert len(begun) == 2


def test_no_trial_that_was_pruned_is_the_best(monkeypatch, tmp_path, capsys):
  """Runs that get worse: at its pruning one is better than any at the end."""
  ran = []

  def fake(config, workdir, stop, watch, like):
    ran.append(workdir.name)
    worse = 0.3 if len(ran) > 4 else 0.4
    watch({"epoch": 1, "ended": False, JUDGE: worse})
    # Behind the others at its end, where it is over.
    watch({"epoch": 2, "ended": True, JUDGE: 0.9 - len(ran) / 100})
    return None, {"last": {JUDGE: 0.5 + len(ran) / 100}}

  monkeypatch.setattr(train, "train", fake)
  flags = ["search", *RECIPE, f"--workdir={tmp_path}", "--trials=6"]
  __main__.main([*flags, SEARCHED[0]])
  said = capsys.readouterr().out
  assert said.count(" pruned ") == 2
  assert f"The best one is in {tmp_path / 'trial3'}:" in said


def test_a_kill_before_the_answer_to_a_figure_changes_nothing(
  pretending, tmp_path, monkeypatch
):
  config, looked = read(*SEARCHED)
  _, whole = search.search(config, looked, 12, tmp_path / "whole")
  prunes, killed = optuna.Trial.should_prune, []

  def die(trial):
    if prunes(trial) and trial.number not in killed:
      killed.append(trial.number)
      raise KeyboardInterrupt
    return prunes(trial)

  monkeypatch.setattr(optuna.Trial, "should_prune", die)
  while True:
    try:
      _, broken = search.search(config, looked, 12, tmp_path / "broken")
      break
    except KeyboardInterrupt:
      pass
  assert killed
  for one, other in zip(whole, broken, strict=True):
    assert (one.state, one.params) == (other.state, other.params)
    assert one.intermediate_values == other.intermediate_values


def test_what_a_kill_leaves_of_the_study_stops_nothing(
  pretending, tmp_path, monkeypatch
):
  ran, _ = pretending
  config, looked = read(*SEARCHED)
  monkeypatch.chdir(tmp_path)
  folder = pathlib.Path("study")
  search.search(config, looked, 2, folder)
  file = folder / "study.journal"
  # In the middle of a line, and with the lock that Optuna would take.
  file.write_bytes(file.read_bytes() + b'{"op_code": 4, "wor')
  (folder / "study.journal.lock").symlink_to(file)
  _, trials = search.search(config, looked, 3, folder)
  assert len(trials) == len(ran) == 3
  lines = file.read_bytes().splitlines()
  file.write_bytes(b"\n".join([*lines[:2], b"nothing", *lines[2:], b""]))
  with pytest.raises(ConfigError, match="study.journal is damaged"):
    search.search(config, looked, 4, folder)


def test_an_interrupted_search_of_lists_goes_on(
  pretending, tmp_path, capsys, monkeypatch
):
  ran, events = pretending
  events[1] = Interrupted("stopped")
  flags = ["search", *RECIPE, f"--workdir={tmp_path}", "--trials=3"]
  drops = "--search.optim.drops=((0.5,),[0.6,0.8])"
  with pytest.raises(SystemExit):
    __main__.main([*flags, drops])
  __main__.main([*flags, drops])
  assert [name for name, *_ in ran] == ["trial0", "trial1", "trial1", "trial2"]
  shown = capsys.readouterr().out
  (best,) = (x for x in shown.splitlines() if x.startswith("'--config"))
  config, _ = read(*shlex.split(best), *SEARCHED)
  assert config.optim.drops in ((0.5,), (0.6, 0.8))


def test_values_may_hold_dots():
  _, looked = read("--search.init_from=('../a','../b')")
  assert looked["init_from"].choices == ("../a", "../b")


def test_what_is_best_can_be_pasted_into_a_shell(
  pretending, tmp_path, capsys, monkeypatch
):
  flags = ["search", *RECIPE, f"--workdir={tmp_path}", "--trials=1"]
  __main__.main([*flags, "--search.init_from=('a b','a b c')"])
  (line,) = (x for x in capsys.readouterr().out.splitlines() if x[:3] == "'--")
  assert re.fullmatch("--config.init_from=a b( c)?", *shlex.split(line))


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    ([], "nothing to search"),
    (["--search.optim.rate=1..2"], "there is no key 'optim.rate'"),
    (["--search.method.gate=1..2"], "'okddip' has no hyperparameter 'gate'"),
    (["--search.batch_size=20..10"], "must be LOW..HIGH"),
    (["--search.batch_size=log:0..10"], "must be LOW..HIGH"),
    (["--search.peers.net=1..2"], "must be LOW..HIGH"),
    (["--search.batch_size=0..10"], "config.batch_size=0 must be"),
    (["--search.batch_size=()"], "must be values in brackets"),
    (["--search.data.validation=0.1..0.2"], "all trials must have the same"),
    (["--search.data.test_fraction=0.1..0.2"], "all trials must have the same"),
    (["--search.seed=(0,1)"], "all trials must have the same"),
    (["--search.batch_size={[1]:2}"], "must be values in brackets"),
  ],
)
def test_wrong_ranges_are_refused(flags, says):
  with pytest.raises(ConfigError, match=re.escape(says)):
    read(*flags)


@pytest.mark.parametrize(
  ("flag", "says"),
  [
    ("--config.data.validation=0", "--config.data.validation=0.1 holds out"),
    ("--config.best_by=test/leader/accuracy", "such as validation/leader/acc"),
    ("--config.best_by=validation/leader/pckh", "is not measured on digits"),
  ],
)
def test_only_a_figure_on_validation_data_chooses(flag, says, tmp_path, capsys):
  flags = ["search", *RECIPE, flag, f"--workdir={tmp_path}", *SEARCHED]
  with pytest.raises(SystemExit) as left:
    __main__.main(flags)
  assert left.value.code == ConfigError.exit_code
  assert says in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_keypoints_are_judged_by_their_own_figure(tmp_path):
  for seed, (split, count) in enumerate({"train": 10, "test": 4}.items()):
    stickfolk.write(tmp_path, split, "easy", count, seed)
  config = independent_stickfolk.get_config("smoke")
  config.data.name = f"keypoints:{tmp_path}"
  config.data.train_examples = 0
  config.data.validation = 0.2
  config.mesh.data, config.batch_size = 1, 4
  judge = search._judge(freeze(config))
  assert judge.name == "validation/leader/pckh"
  assert judge.merit({judge.name: 0.5}) == judge.figure(0.5) == 0.5
  config.best_by = "validation/leader/accuracy"
  with pytest.raises(ConfigError, match="not measured .* such as .*/pckh"):
    search._judge(freeze(config))


def test_another_search_is_refused_in_its_folder(pretending, tmp_path):
  config, looked = read(*SEARCHED)
  search.search(config, looked, 1, tmp_path)
  with pytest.raises(ConfigError, match="a search of another space"):
    search.search(*read(SEARCHED[0]), 1, tmp_path)
  longer = dataclasses.replace(config, extra_epochs=1)
  with pytest.raises(ConfigError, match="a search of another length"):
    search.search(longer, looked, 2, tmp_path)


@pytest.mark.long
def test_the_command_trains_and_says_what_is_best(tmp_path, capsys):
  flags = ["search", *RECIPE, f"--workdir={tmp_path}", "--trials=2"]
  __main__.main([*flags, "--search.optim.learning_rate=(0.1,0.0001)"])
  said = capsys.readouterr().out
  assert f"Trials by {JUDGE} (last evaluation)" in said
  best = re.search(r"trial(\d):\n--config.optim.learning_rate=(.*)\n", said)
  assert best and best[2] in ("0.1", "0.0001")
  assert (tmp_path / f"trial{best[1]}" / "summary.json").exists()


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on(tmp_path):
  def flags(name):
    return [
      "search",
      *RECIPE,
      "--config.epochs=12",
      "--config.eval_epochs=1",
    ] + [f"--workdir={tmp_path / name}", "--trials=2", *SEARCHED]

  argv = [sys.executable, "-m", "okd_jax", *flags("killed")]
  path = os.pathsep.join(filter(None, sys.path))
  with subprocess.Popen(argv, env=os.environ | {"PYTHONPATH": path}) as process:
    records = tmp_path / "killed" / "trial1" / "metrics.jsonl"
    while not (records.exists() and "validation" in records.read_text()):
      assert process.poll() is None
      time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
  assert not (tmp_path / "killed" / "trial1" / "summary.json").exists()
  for name in ("killed", "whole"):
    __main__.main(flags(name))
  killed, whole = (
    optuna.load_study(
      study_name="search",
      storage=optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(
          str(tmp_path / name / "study.journal")
        )
      ),
    ).get_trials()
    for name in ("killed", "whole")
  )
  assert [t.state.name for t in killed] == ["COMPLETE"] * 2
  for one, other in zip(killed, whole, strict=True):
    assert one.params == other.params and one.values == other.values
    assert one.intermediate_values == other.intermediate_values
