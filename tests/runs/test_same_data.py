"""A trained thing meets the data that it was trained on, or refuses."""

import dataclasses
import json
import shutil

import folder_recipe
import numpy as np
from PIL import Image
import pytest

from configs import okddip_digits
from okd_jax import __main__, train
from okd_jax.cli import common
from okd_jax.data.formats import publisher
from okd_jax.data.info import Split
from okd_jax.devices.mesh import make_mesh
from okd_jax.errors import ConfigError, DataError
from okd_jax.runs import run as run_lib, same_data
from okd_jax.settings import build
from okd_jax.settings.freeze import freeze, replace

NAMES = ("cat", "dog", "owl")


def command(*args):
  __main__.main([str(arg) for arg in args])


def draw(path, value):
  rng = np.random.default_rng(value)
  pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
  # Of one size, whatever is in it.
  Image.fromarray(pixels).save(path.with_suffix(".bmp"))


@pytest.fixture
def root(tmp_path):
  for place, name in enumerate(NAMES):
    (tmp_path / "set" / name).mkdir(parents=True)
    for i in range(10):
      draw(tmp_path / "set" / name / f"{i}", 100 * place + i)
  return tmp_path / "set"


@pytest.fixture
def run(root, tmp_path):
  """The beginning of a run: what is known about it."""
  return begin(folder_recipe.configured(root), tmp_path / "run")


def begin(config, workdir):
  workdir.mkdir()
  source = build.source(config)
  setup = build.setup(config, source.info, source.train_size, make_mesh(1, 1))
  run_lib.remember(config, setup, source, workdir)
  return workdir


def again(root, run):
  run_lib.require_same_data(run, build.source(folder_recipe.configured(root)))


def test_the_same_pictures_are_the_same(root, run):
  again(root, run)
  # Another time of change is no change.
  for path in root.rglob("*.bmp"):
    path.touch()
  again(root, run)


@pytest.mark.checklist("H1")
@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda root: draw(root / "cat" / "new", 1), "1 added (cat/new.bmp)"),
    (
      lambda root: [(root / "owl" / f"{i}.bmp").unlink() for i in range(5)],
      "5 removed (owl/0.bmp, owl/1.bmp, owl/2.bmp and 2 more)",
    ),
    (lambda root: draw(root / "dog" / "3", 7), "1 changed (dog/3.bmp)"),
    (
      lambda root: (root / "dog" / "3.bmp").rename(root / "cat" / "3b.bmp"),
      "1 added (cat/3b.bmp); 1 removed (dog/3.bmp)",
    ),
    (
      lambda root: (root / "cat").rename(root / "lynx"),
      "gone are cat, new are lynx",
    ),
    (
      lambda root: shutil.copytree(root / "cat", root / "cow"),
      "the classes differ, 3 then and 4 now: new are cow",
    ),
  ],
)
def test_what_has_changed_is_told(root, run, change, words):
  change(root)
  with pytest.raises(DataError) as refused:
    again(root, run)
  assert words in str(refused.value)
  assert "another --workdir" in str(refused.value)


def test_a_run_without_a_checkpoint_may_begin_with_other_data(root, run):
  config = folder_recipe.configured(root)
  (root / "dog" / "3.bmp").unlink()
  train._open(config, run, config.teacher, None)
  (run / "checkpoints").mkdir()
  (run / "checkpoints" / "1.manifest.json").touch()
  with pytest.raises(DataError, match="1 removed .dog/3.bmp"):
    train._open(config, run, config.teacher, None)


def test_a_stream_compares_names_and_sizes(root, tmp_path):
  config = folder_recipe.configured(root, **{"data.source": "stream"})
  workdir = begin(config, tmp_path / "run")
  run_lib.require_same_data(workdir, build.source(config))
  # What is in a picture of the same size is not looked at.
  draw(root / "dog" / "3", 7)
  run_lib.require_same_data(workdir, build.source(config))
  with (root / "dog" / "3.bmp").open("ab") as file:
    file.write(b"more")
  draw(root / "cat" / "new", 1)
  with pytest.raises(DataError, match="1 added.*1 changed .dog/3.bmp"):
    run_lib.require_same_data(workdir, build.source(config))


def test_other_data_compare_their_numbers(tmp_path):
  config = freeze(okddip_digits.get_config("smoke"))
  workdir = begin(config, tmp_path / "run")
  assert not (workdir / same_data._FILES).exists()
  run_lib.require_same_data(workdir, build.source(config))
  about = json.loads((workdir / "data.json").read_text())
  about["num_train"] += 1
  (workdir / "data.json").write_text(json.dumps(about))
  with pytest.raises(DataError, match="had 1438 for train, 360 for test, and"):
    run_lib.require_same_data(workdir, build.source(config))


def test_another_order_of_examples_is_refused(tmp_path, monkeypatch):
  """As if a copy had been prepared where the publisher's files were read."""
  config = freeze(okddip_digits.get_config("smoke"))
  workdir = begin(config, tmp_path / "run")
  (workdir / "checkpoints").mkdir()
  (workdir / "checkpoints" / "1.manifest.json").touch()
  train._open(config, workdir, config.teacher, None)
  found = publisher.digits()
  turned = Split(found.train.images[::-1], found.train.labels[::-1])
  other = dataclasses.replace(found, train=turned)
  monkeypatch.setattr(publisher, "digits", lambda: other)
  # The test examples are the same.
  run_lib.require_same_data(workdir, build.source(config))
  with pytest.raises(DataError, match="training examples are in another order"):
    train._open(config, workdir, config.teacher, None)
  about = json.loads((workdir / "data.json").read_text())
  del about["labels_sum"]  # as in runs of earlier releases
  (workdir / "data.json").write_text(json.dumps(about))
  train._open(config, workdir, config.teacher, None)


def test_runs_of_earlier_releases_have_no_list(root, run):
  (run / same_data._FILES).unlink()
  draw(root / "dog" / "3", 7)
  again(root, run)
  (root / "owl").rename(root / "bat")
  with pytest.raises(DataError, match="gone are owl, new are bat"):
    again(root, run)


def test_a_damaged_list_is_named(root, run):
  (run / same_data._FILES).write_bytes(b"no list")
  with pytest.raises(DataError, match="files.jsonl.gz is damaged"):
    again(root, run)


def test_other_orders_of_classes_are_told():
  assert same_data.classes("abc", "abc") == ""
  assert "class 1 was 'b' and is 'c'" in same_data.classes("abc", "acb")


def refused(*args):
  with pytest.raises(SystemExit) as left:
    command(*args)
  assert left.value.code == DataError.exit_code


@pytest.mark.long
def test_moved_pictures_are_found_again(root, tmp_path, capsys):
  workdir = tmp_path / "run"
  train.train(folder_recipe.configured(root), workdir)
  capsys.readouterr()
  command("eval", workdir, "--json")
  before = json.loads(capsys.readouterr().out)
  picture = shutil.copy(root / "cat" / "0.bmp", tmp_path / "a.bmp")
  moved = tmp_path / "another disk"
  root.rename(moved)
  refused("eval", workdir)
  assert "--data=PATH says where they are now" in capsys.readouterr().err
  command("eval", workdir, f"--data={moved}", "--json")
  assert json.loads(capsys.readouterr().out) == before
  command("predict", workdir, picture)  # needs none of them
  longer = folder_recipe.configured(root, extra_epochs=1)
  with pytest.raises(DataError, match="is not a folder"):
    train.train(longer, workdir)
  with pytest.raises(ConfigError, match="only moved.*--data=PATH"):
    train.train(replace(longer, {"data.name": f"folder:{moved}"}), workdir)
  longer = replace(longer, {"data.dir": str(moved)})
  assert int(train.train(longer, workdir)[0].step) == 8
  # It is the same data set, by its name too.
  assert run_lib.about(workdir)[1].name == f"folder:{root}"
  (moved / "owl").rename(moved / "bat")
  refused("eval", workdir, f"--data={moved}")
  assert "gone are owl, new are bat" in capsys.readouterr().err
  with pytest.raises(DataError, match="gone are owl"):
    train.train(longer, workdir)


def test_main_takes_the_new_place_as_eval_does(root):
  argv = [
    "main.py",
    f"--config={okddip_digits.__file__}:smoke",
    f"--config.data.name=folder:{root}",
    "--data=~/pictures",
  ]
  config = common.read_recipe(argv)[0]
  assert config.data.dir == "~/pictures"
  assert config.data.name == f"folder:{root}"
