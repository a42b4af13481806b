"""The folder of several seeds: summary, bands, and every command."""

import dataclasses
from html.parser import HTMLParser
import json
import pathlib
import shutil
import statistics
from unittest import mock

import folder_recipe
import numpy as np
from PIL import Image
import pytest

from configs import common, okddip_digits
from okd_jax import __main__, seeds, tasks
from okd_jax.cli import eval as eval_lib, evaluated
from okd_jax.data import picture
from okd_jax.errors import ConfigError, DataError, UnreachableError
from okd_jax.results import curves, report
from okd_jax.runs import records, run as run_lib, workdir as workdir_lib
from okd_jax.settings.freeze import freeze, method_section, replace
from okd_jax.weights import exported

SEEDS = (3, 4)


def command(*args):
  __main__.main([str(arg) for arg in args])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, draw):
  config = okddip_digits.get_config("smoke")
  config.seed, config.num_seeds = SEEDS[0], len(SEEDS)
  config.peers.net, config.peers.num_peers = "own_networks:Small", 2
  config.method = common.method("independent")
  config.mesh.data = 1
  config.epochs, config.rampup_epochs, config.eval_epochs = 2, 1, 1
  workdir = tmp_path_factory.mktemp("several") / "run"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(seeds.train_lib, "draw", draw)
    seeds.train(freeze(config), workdir)
  return workdir


def test_what_a_kill_left_undone_is_done_without_training(
  folder, tmp_path, monkeypatch
):
  config = run_lib.about(folder / "seed3")[0]
  config = replace(config, {"num_seeds": 2, "epochs": 1})
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(
      seeds.train_lib.export, "export", mock.Mock(side_effect=KeyboardInterrupt)
    )
    seeds.train(config, tmp_path)
  killed = tmp_path / "seed3"
  before = json.loads((killed / "summary.json").read_text())
  assert not before["finished"] and not (killed / "leader").exists()
  seeds.train(config, tmp_path)
  assert weights_of(killed / "leader")
  after = json.loads((killed / "summary.json").read_text())
  # With the same times, so nothing was trained.
  assert after == before | {"finished": True}
  assert "images_per_second" in after


def last(folder, name):
  """A figure of every seed, as its own records have it."""
  return [
    records.read_metrics(folder / f"seed{seed}")[-1][name] for seed in SEEDS
  ]


def weights_of(folder):
  """The sum of an exported network's weights."""
  return exported.read_card(folder)["files"][exported.WEIGHTS]


def refused(kind, *args):
  with pytest.raises(SystemExit) as left:
    command(*args)
  assert left.value.code == kind.exit_code


def test_the_folder_holds_mean_and_deviation(folder):
  summary = json.loads((folder / "summary.json").read_text())
  assert (summary["seeds"], summary["runs"]) == ([3, 4], ["seed3", "seed4"])
  for name in ("test/leader/accuracy", "test/ensemble/cross_entropy"):
    values = last(folder, name)
    assert summary["last"][name] == {
      "mean": statistics.fmean(values),
      "deviation": statistics.stdev(values),
    }
  assert (
    summary["best"]["test/leader/accuracy"]["mean"]
    >= (summary["last"]["test/leader/accuracy"]["mean"])
  )


def test_runs_of_a_folder(folder, tmp_path):
  assert workdir_lib.runs(folder) == {k: folder / f"seed{k}" for k in SEEDS}
  assert workdir_lib.runs(folder / "seed3") == {None: folder / "seed3"}
  assert workdir_lib.runs(tmp_path / "x") == {None: tmp_path / "x"}
  (tmp_path / "seed1").mkdir()  # without a run in it
  assert workdir_lib.runs(tmp_path) == {None: tmp_path}


def test_all_seeds_are_evaluated(folder, capsys):
  command("eval", folder, "--json")
  told = json.loads(capsys.readouterr().out)
  singles = []
  for seed in SEEDS:
    command("eval", folder, f"--seed={seed}", "--json")
    singles.append(json.loads(capsys.readouterr().out))
    assert told["runs"][f"seed{seed}"]["figures"] == singles[-1]["figures"]
  values = [single["figures"]["leader"]["accuracy"] for single in singles]
  assert told["figures"]["leader"]["accuracy"] == {
    "mean": statistics.fmean(values),
    "deviation": statistics.stdev(values),
  }
  command("eval", folder)
  shown = capsys.readouterr().out
  mean, deviation = statistics.fmean(values), statistics.stdev(values)
  assert f"{100 * mean:.2f} ± {100 * deviation:.2f} %" in shown
  assert "over 2 seeds" in shown


def test_means_over_different_steps_are_called_so(
  folder, monkeypatch, caplog, capsys
):
  whole = eval_lib._evaluate
  steps = iter((10, 5))

  def evaluate(workdir, args):
    return dataclasses.replace(whole(workdir, args), step=next(steps))

  monkeypatch.setattr(eval_lib, "_evaluate", evaluate)
  command("eval", folder)
  assert "over different steps: seed3 at 10, seed4 at 5." in caplog.text
  assert "over 2 seeds" in capsys.readouterr().out


def test_seeds_of_keypoints_have_the_measures_that_there_are(capsys):
  """Without boxes of heads there is no PCKh, for example."""
  of_keypoints = tasks.load("keypoints")(None)
  found = [
    evaluated.Evaluated(
      pathlib.Path(f"seed{seed}"),
      *(3, of_keypoints, 9, {}, {"leader": {"pck": pck, "ap": 0.25}}, [], None),
    )
    for seed, pck in ((0, 0.5), (1, 0.7))
  ]
  evaluated.report_several(found, pathlib.Path("runs"), "test", as_json=False)
  shown = capsys.readouterr().out
  assert "60.00 ± 14.14 %" in shown and "PCKh" not in shown


def test_a_report_is_of_a_step_that_all_seeds_have(folder, tmp_path):
  copied = shutil.copytree(folder, tmp_path / "run")
  path = copied / "seed4" / "metrics.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(x for x in lines if json.loads(x)["step"] <= 5))
  runs = [copied / f"seed{seed}" for seed in SEEDS]
  (table,) = report._evaluation(runs)
  assert table.title.startswith("Evaluation after step 5, mean")
  values = [records.until(run, 5)[-1]["test/leader/accuracy"] for run in runs]
  (row,) = (r for r in table.rows if r[0] == "test/leader")
  assert row[1].startswith(f"{100 * statistics.fmean(values):.2f} ±")


def test_a_bucket_out_of_reach_is_said():
  class Away:
    def __fspath__(self):
      return "gs://away/run"

    def is_dir(self):
      raise ConnectionError("nobody answers")

  with pytest.raises(UnreachableError, match="gs://away/run .*nobody answers"):
    workdir_lib.runs(Away())


@pytest.mark.parametrize(
  "damage", [("config.json", "[]"), ("data.json", "{}"), ("data.json", "[]")]
)
def test_a_damaged_run_is_named(folder, tmp_path, damage):
  name, content = damage
  copied = shutil.copytree(folder / "seed3", tmp_path / "run")
  (copied / name).write_text(content)
  with pytest.raises(ConfigError, match="run has a damaged config.json or"):
    run_lib.about(copied)


def test_a_closer_look_at_all_seeds(folder, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(eval_lib, "_draw", lambda *args: None)
  copied = shutil.copytree(folder, tmp_path / "run")
  command("eval", copied, "--all-peers", "--json")
  runs = [*json.loads(capsys.readouterr().out)["runs"].values()]
  command("eval", copied, "--all-peers", "--per-class")
  shown = capsys.readouterr().out
  table = shown.partition("Ensemble of the first k members")[2]
  for k in runs[0]["ensemble_of_first"]:
    found = [run["ensemble_of_first"][k]["accuracy"] for run in runs]
    mean, deviation = statistics.fmean(found), statistics.stdev(found)
    assert f"{100 * mean:.2f} ± {100 * deviation:.2f} %" in table
  for seed in SEEDS:
    assert f"Classes, seed {seed}" in shown


def test_a_seed_that_is_not_there_is_refused(folder, capsys):
  refused(ConfigError, "eval", folder, "--seed=7")
  assert "holds runs of the seeds 3, 4" in capsys.readouterr().err
  refused(ConfigError, "eval", folder / "seed3", "--seed=3")
  assert "holds no runs of several seeds" in capsys.readouterr().err
  with pytest.raises(ConfigError, match="one run in it: seed3, seed4"):
    run_lib.about(folder)


@pytest.mark.parametrize("below", ["trial3", "resnet8/okddip/seed0"])
def test_runs_of_a_search_and_a_comparison_are_named(below, tmp_path):
  (tmp_path / below).mkdir(parents=True)
  (tmp_path / below / "config.json").touch()
  with pytest.raises(ConfigError, match=f"one run in it: {below}"):
    run_lib.about(tmp_path)


def test_all_seeds_are_exported(folder, tmp_path, capsys):
  command("export", folder, "--what=peer_0")
  command("export", folder, "--what=peer_0", f"--to={tmp_path}/all")
  command("export", folder, "--seed=4", "--what=peer_0", f"--to={tmp_path}/one")
  assert str(folder / "seed3" / "peer_0") in capsys.readouterr().out
  for seed in SEEDS:
    weights = weights_of(folder / f"seed{seed}" / "peer_0")
    assert weights == weights_of(tmp_path / "all" / f"seed{seed}")
  assert weights_of(tmp_path / "one") == weights  # of seed 4, the last one


def test_all_seeds_predict(folder, tmp_path, capsys, monkeypatch):
  pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
  Image.fromarray(pixels).save(tmp_path / "a.png")
  read = mock.Mock(wraps=picture.resized)
  monkeypatch.setattr(picture, "resized", read)
  command("predict", folder, tmp_path, "--json")
  # Not once a seed.
  read.assert_called_once()
  told = json.loads(capsys.readouterr().out)
  assert list(told) == ["seed3", "seed4"]
  command("predict", folder, tmp_path, "--seed=4", "--json")
  assert json.loads(capsys.readouterr().out) == told["seed4"]
  command("predict", folder, tmp_path)
  assert capsys.readouterr().out.count("Predictions of") == 2
  (tmp_path / "b.png").write_bytes(b"")
  refused(DataError, "predict", folder, tmp_path)
  assert "1 of 2 files" in capsys.readouterr().err


@pytest.mark.long
def test_curves_are_means_with_deviations(folder, tmp_path, capsys):
  runs = [records.read_evaluations(folder / f"seed{k}") for k in SEEDS]
  figure = next(f for f in runs[0][0][1] if f.name == "test/leader/accuracy")
  curve = curves.of_runs(runs, 0.5)[figure]
  values = np.array([[found[figure] for _, found in run] for run in runs])
  np.testing.assert_allclose(curve.values, values.mean(0))
  np.testing.assert_allclose(curve.deviation, values.std(0, ddof=1))
  np.testing.assert_allclose(curve.epochs, [0.5 * step for step, _ in runs[0]])
  # As far as all have come, and alone without a band.
  assert len(curves.of_runs([runs[0][:1], runs[1]], 1)[figure].values) == 1
  assert curves.of_runs(runs[:1], 1)[figure].deviation is None
  # Drawn already, at the end of training.
  assert (folder / "plots" / "accuracy.svg").exists()
  command("plot", folder, f"--to={tmp_path / 'all'}")
  command("plot", folder, "--seed=3", f"--to={tmp_path / 'one'}")
  capsys.readouterr()
  bands = [
    (tmp_path / name / "accuracy.svg").read_text().count("FillBetween")
    for name in ("all", "one")
  ]
  assert bands[0] > 0 == bands[1]
  # Two runs share their pictures.
  both = folder / "seed3", folder / "seed4"
  command("plot", *both, f"--to={tmp_path / 'both'}")
  said = capsys.readouterr().out
  assert said.count(".png") == len(list((tmp_path / "both").glob("*.png"))) > 2


@pytest.mark.long
def test_the_report_shows_the_spread_or_one_seed(folder, tmp_path):
  class Text(HTMLParser):
    text = ""

    def handle_data(self, data):
      self.text += data

  def page(*flags):
    command("report", folder, f"--to={tmp_path / 'page.html'}", *flags)
    read = Text()
    read.feed((tmp_path / "page.html").read_text())
    return read.text

  both, one = page(), page("--seed=4")
  values = last(folder, "test/leader/accuracy")
  mean, deviation = statistics.fmean(values), statistics.stdev(values)
  assert f"{100 * mean:.2f} ± {100 * deviation:.2f} %" in both
  assert "seeds 3, 4" in both and "Not finished" not in both
  assert f"{100 * values[1]:.2f} %" in one and "±" not in one
  assert "seed 4, 2 epochs" in one
  command("report", folder, "--seed=3")
  assert (folder / "seed3" / "report.html").exists()


def test_a_damaged_seed_is_named(folder, tmp_path):
  workdir = shutil.copytree(folder, tmp_path / "copy")
  (workdir / "seed4" / "config.json").write_text("{")
  config = run_lib.about(folder / "seed3")[0]
  config = replace(config, {"num_seeds": len(SEEDS)})
  with pytest.raises(ConfigError, match="seed4/config.json is damaged"):
    seeds.train(config, workdir)


def test_another_seed_needs_the_data_of_the_others(tmp_path):
  pictures = tmp_path / "pictures"
  folder_recipe.add_pictures(pictures, range(6))
  asked = folder_recipe.configured(pictures, num_seeds=2)
  workdir = tmp_path / "run"
  seeds.train(asked, workdir)
  folder_recipe.add_pictures(pictures, [6])
  more = dataclasses.replace(asked, num_seeds=3)
  with pytest.raises(DataError, match="seed0 began with"):
    seeds.train(more, workdir)
  assert not run_lib.exists(workdir / "seed2")


def test_another_seed_needs_the_teacher_of_the_others(folder, tmp_path):
  asked = replace(
    run_lib.about(folder / "seed3")[0],
    {
      "method": method_section("kd"),
      "epochs": 1,
      "num_seeds": 2,
      "teacher": str(folder / "seed3"),
    },
  )
  seeds.train(asked, tmp_path)
  other = {"num_seeds": 3, "teacher": str(folder / "seed4")}
  with pytest.raises(ConfigError, match="config.teacher=.*has other weights"):
    seeds.train(replace(asked, other), tmp_path)
  assert not run_lib.exists(tmp_path / "seed5")
