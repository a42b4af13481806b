"""A user's own folder of images: checked, trained on, evaluated, classified."""

import csv
import dataclasses
import json
import shutil

import numpy as np
from PIL import Image
import pytest
from sklearn import datasets

from configs import okddip_digits
from okd_jax import __main__, train
from okd_jax.data.formats import tfds
from okd_jax.errors import ConfigError, DataError
from okd_jax.results import closer_page, report
from okd_jax.runs import (
  run as run_lib,
  summary as summary_lib,
  workdir as workdir_lib,
)
from okd_jax.settings import config as config_lib
from okd_jax.settings.freeze import freeze

# Folders of any pictures are mirrored at random, which these digits survive.
NAMES = ("zero", "one", "four")
MISLABELLED = "test/one/47.png"


def command(*args):
  __main__.main([str(arg) for arg in args])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  """train/ and test/ with PNGs of real digits, of several sizes."""
  root = tmp_path_factory.mktemp("digits")
  digits = datasets.load_digits()
  for name, digit in zip(NAMES, (0, 1, 4), strict=True):
    pixels = digits.images[digits.target == digit][:50]
    for i, image in enumerate(pixels):
      folder = root / ("train" if i < 40 else "test") / name
      folder.mkdir(parents=True, exist_ok=True)
      grey = Image.fromarray((image * 255 / 16).astype(np.uint8))
      size = (16 + i % 3, 16)
      grey.resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.png")
  # One picture is in the folder of another class.
  shutil.copy(root / "test" / "zero" / "45.png", root / MISLABELLED)
  return root


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
  config = okddip_digits.get_config()
  config.data.name = f"folder:{pictures}"
  config.data.image_size = 16
  config.data.validation = 0.1
  config.peers.net = "examples.own_network:Branched"
  config.peers.num_peers = 3
  config.mesh.data = 1
  config.batch_size, config.eval_batch_size, config.epochs = 12, 30, 30
  config.eval_epochs = 30
  workdir = tmp_path_factory.mktemp("runs") / "own"
  train.train(freeze(config), workdir)
  return workdir


def test_folder_is_reported(pictures, capsys):
  command("data", f"folder:{pictures}", "--json")
  told = json.loads(capsys.readouterr().out)
  assert told["counts"] == {
    "train": dict.fromkeys(sorted(NAMES), 40),
    "test": dict.fromkeys(sorted(NAMES), 10),
  }
  assert set(told["sizes"]) == {"16x16", "17x16", "18x16"}
  assert told["damaged"] == {}


def test_leader_has_learned_and_is_evaluated(run, capsys):
  command("eval", run, "--json")
  result = json.loads(capsys.readouterr().out)
  assert result["count"] == 30
  # Chance is a third.
  assert result["figures"]["leader"]["correct"] >= 21
  command("eval", run, "--split=validation", "--json")
  assert json.loads(capsys.readouterr().out)["count"] == 12


def test_a_picture_in_a_wrong_folder_is_named(run, tmp_path):
  command("eval", run, "--per-class", f"--to={tmp_path}")
  with (tmp_path / "wrong.csv").open() as file:
    rows = list(csv.DictReader(file))
  (found,) = (row for row in rows if row["file"] == MISLABELLED)
  assert (found["class"], found["taken_for"]) == ("one", "zero")
  assert all(row["file"].startswith(f"test/{row['class']}/") for row in rows)
  assert found in rows[:3]
  command("eval", run, "--per-class")
  assert any(MISLABELLED in part for part in closer_page.parts(run, "a"))


def test_data_tells_what_training_uses(pictures, tmp_path, capsys):
  sheet = tmp_path / "new" / "sheet.png"
  (tmp_path / "new").mkdir()
  for name in NAMES:
    shutil.copytree(pictures / "train" / name, tmp_path / "set" / name)
  (tmp_path / "set" / "notes.txt").write_text("three digits")
  flags = ("--config.data.image_size=16", "--config.data.validation=0.1")
  command("data", tmp_path / "set", *flags, "--json")
  told = json.loads(capsys.readouterr().out)
  assert told["used"] == {"train": 86, "validation": 10, "test": 24}
  assert told["size"] == {
    "min": [16, 16],
    "median": [17, 16],
    "max": [18, 16],
  }
  assert told["imbalance"] == 1
  assert told["left_out"] == {
    "no pictures": [str(tmp_path / "set" / "notes.txt")]
  }
  balanced = "--config.data.per_class=2"
  command("data", tmp_path / "set", *flags, balanced, f"--show={sheet}")
  said = capsys.readouterr().out
  assert "86 for train, 10 for validation, 24 for test" in said
  assert "no pictures: 1 (notes.txt)" in said
  drawn = np.asarray(Image.open(sheet))
  # A row a class, and digits in every one of its eight places.
  assert drawn.shape == (3 * 82, 8 * 68, 3)
  for row in range(3):
    for column in range(8):
      top, left = row * 82 + 14, column * 68
      assert drawn[top : top + 64, left : left + 64].std() > 30
  for wrong in ("data.train_examples=1000", "augment.erase=2"):
    with pytest.raises(SystemExit) as left:
      command("data", tmp_path / "set", f"--config.{wrong}")
    assert left.value.code == ConfigError.exit_code


def test_data_refuses_what_training_would(
  pictures, tmp_path, capsys, monkeypatch
):
  def refused(*args):
    with pytest.raises(SystemExit) as left:
      command("data", *args)
    assert left.value.code in (ConfigError.exit_code, DataError.exit_code)
    return capsys.readouterr().err

  flags = (pictures, "--config.data.image_size=16")
  said = refused(*flags, "--config.data.per_class=41")
  assert "3 class(es) have fewer than config.data.per_class=41" in said
  # The tests take more, and what is trained on less.
  monkeypatch.setattr(tfds, "MAX_BYTES", 40 * 16 * 16 * 3)
  shutil.copytree(pictures / "train", tmp_path / "set" / "test")
  for name in NAMES:
    (tmp_path / "set" / "train" / name).mkdir(parents=True)
    shutil.copy(
      pictures / "train" / name / "1.png", tmp_path / "set" / "train" / name
    )
  said = refused(tmp_path / "set", "--config.data.image_size=16")
  assert "config.data.source=stream" in said
  copy = tmp_path / "digits" / "1.0.0"
  copy.mkdir(parents=True)
  (copy / "dataset_info.json").write_text("{}")
  said = refused(
    copy, "--config.data.per_class=2", "--config.augment.erase=0.1"
  )
  assert (
    "--config.data.per_class, --config.augment.erase is for folders" in said
  )
  assert "--show is for" in refused(copy, f"--show={tmp_path / 'a.png'}")
  width = "--config.data.keypoints.width"
  for place in (pictures, copy):
    assert f"{width} is for" in refused(place, f"{width}=16")


@pytest.mark.long
def test_data_draws_what_the_network_sees(pictures, tmp_path):
  def drawn(*flags):
    sheet = tmp_path / "sheet.png"
    command(
      *("data", pictures, "--config.data.image_size=16", f"--show={sheet}"),
      *(f"--config.augment.{flag}" for flag in flags),
    )
    return np.asarray(Image.open(sheet)).astype(int)

  plain = drawn()
  for flags in (
    ("policy=trivial_augment", "jitter=(0.4,0.4,0.4,0.1)"),
    ("mixup=1.0", "crop=false"),
  ):
    changed = np.any(drawn(*flags) != plain, -1)
    # In most of the pictures, and never in the words beside them.
    assert changed.mean() > 0.1 and not changed[:14].any()


def test_bad_files_do_not_stop_the_others(run, pictures, tmp_path, capsys):
  mixed = tmp_path / "mixed"
  shutil.copytree(pictures / "test" / "one", mixed)
  (mixed / "bad.png").write_bytes(b"no picture")
  (mixed / "._x.png").write_bytes(b"hidden")
  (mixed / "notes.txt").write_text("not looked at")
  with pytest.raises(SystemExit) as left:
    command("predict", run / "leader", mixed, "--json")
  assert left.value.code == DataError.exit_code
  printed = capsys.readouterr()
  results = json.loads(printed.out)
  good = [r["image"] for r in results if "predictions" in r]
  assert good == [str(p) for p in sorted((mixed).glob("[0-9]*.png"))]
  assert [r["image"] for r in results if "error" in r] == [
    str(mixed / "bad.png")
  ]
  assert "1 of 11 files" in printed.err and "bad.png" in printed.err
  with pytest.raises(SystemExit) as left:
    command("predict", run / "leader", mixed / "bad.png")
  assert left.value.code == DataError.exit_code


@pytest.mark.long
@pytest.mark.parametrize(
  ("source", "validation"), [("memory", 0.2), ("stream", 0.0)]
)
def test_a_run_without_test_data(
  pictures, tmp_path, capsys, source, validation
):
  config = okddip_digits.get_config()
  config.data.name = f"folder:{pictures / 'train'}"
  config.data.source = source
  config.data.image_size = 16
  config.data.test_fraction = 0.0
  config.data.validation = validation
  config.peers.net = "toys:Toy"
  config.peers.num_peers = 3
  config.mesh.data = 1
  config.batch_size, config.eval_batch_size, config.epochs = 24, 24, 1
  workdir = tmp_path / "run"
  config = freeze(config)
  summary = train.train(config, workdir)[1]
  expected = "validation/leader/accuracy" if validation else None
  assert summary["best_by"] == expected
  assert not any(name.startswith("test/") for name in summary["last"])
  assert "none to test" in capsys.readouterr().out
  summary_lib.show_results(config, [summary, summary])
  assert "no test data" in capsys.readouterr().out
  card = json.loads((workdir / "leader" / "card.json").read_text())
  assert card["tested_on"] == 0
  assert set(card["accuracy"]) == ({"validation"} if validation else set())
  with pytest.raises(SystemExit) as left:
    command("eval", workdir)
  assert left.value.code == DataError.exit_code
  if not validation:
    best = dataclasses.replace(config, deploy="best")
    with pytest.raises(ConfigError, match="deploy='best' must be 'last'"):
      train.train(best, tmp_path / "best")
    assert not run_lib.exists(tmp_path / "best")
  report.write([workdir], tmp_path / "page.html")


def test_a_run_keeps_how_it_reads_pictures(run, tmp_path):
  config = run_lib.about(run)[0]
  assert workdir_lib.as_begun(config, run).data.exif
  old = tmp_path / "old"
  old.mkdir()
  for name in ("config.json", "data.json"):
    about = json.loads((run / name).read_text())
    section = about["data"] if name == "config.json" else about
    for key in ("exif", "flip") if name == "config.json" else ("exif",):
      del section[key]
    (old / name).write_text(json.dumps(about))
  assert not workdir_lib.as_begun(config, old).data.exif
  before, info, _ = run_lib.about(old)
  assert (before.data.exif, before.data.flip, info.exif) == (False, True, False)
  # They go on under the same hash.
  assert config_lib.digest(before) == config_lib.digest(config)
  workdir_lib.require_same_run(config, old)


@pytest.mark.parametrize("target", ["", "leader"])
def test_predictions_count_as_evaluation_does(run, pictures, target, capsys):
  command("eval", run, "--json")
  figures = json.loads(capsys.readouterr().out)["figures"]
  command("predict", run / target, pictures / "test", "--json")
  results = json.loads(capsys.readouterr().out)
  assert len(results) == 30
  right = [
    f"/{result['predictions'][0]['class']}/" in result["image"]
    for result in results
  ]
  assert sum(right) == figures["leader"]["correct"]


def test_missing_folder_is_a_data_error(tmp_path, run, capsys):
  with pytest.raises(SystemExit) as left:
    command("predict", run, tmp_path / "nothing.png")
  assert left.value.code == DataError.exit_code
  with pytest.raises(SystemExit) as left:
    command("data", tmp_path / "nothing")
  assert left.value.code == DataError.exit_code
  assert "is not a folder" in capsys.readouterr().err
