"""A user's own folder of images: checked, trained on, evaluated, classified."""

import json

import numpy as np
from PIL import Image
import pytest
from sklearn import datasets

from configs import okddip_digits
from okd_jax import __main__, train
from okd_jax.errors import DataError
from okd_jax.settings.freeze import freeze

# Folders of any pictures are mirrored at random, which these digits survive.
NAMES = ("zero", "one", "four")


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
  report = json.loads(capsys.readouterr().out)
  assert report["counts"] == {
    "train": dict.fromkeys(sorted(NAMES), 40),
    "test": dict.fromkeys(sorted(NAMES), 10),
  }
  assert set(report["sizes"]) == {"16x16", "17x16", "18x16"}
  assert report["damaged"] == {}


def test_leader_has_learned_and_is_evaluated(run, capsys):
  command("eval", run, "--json")
  result = json.loads(capsys.readouterr().out)
  assert result["count"] == 30
  # Chance is a third.
  assert result["figures"]["leader"]["correct"] >= 21
  command("eval", run, "--split=validation", "--json")
  assert json.loads(capsys.readouterr().out)["count"] == 12


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
