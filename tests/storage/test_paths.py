"""Paths as people have and write them: every one that the file system takes."""

import argparse
import contextlib
import dataclasses
import json
import os
from pathlib import Path
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from configs import common as recipes, okddip_digits
from okd_jax import __main__, compare, data, train
from okd_jax.cli import common
from okd_jax.data.formats import finder, tfds
from okd_jax.errors import CheckpointError, ConfigError, UnreachableError
from okd_jax.results import closer_page, rows
from okd_jax.runs import records, run as run_lib
from okd_jax.settings import config as config_lib, freeze
from okd_jax.storage import arrays, bucket, paths
from okd_jax.storage.checkpoint import Checkpoints
from okd_jax.training import state as state_lib
from okd_jax.weights import exported, init_from, predict

ODD = (
  "lr=[0.1,0.01]",
  "[x]",
  "[!a]",
  "*",
  "a**b",
  "?",
  "back\\slash",
  "with space",
  "größe 大きさ",
  "new\nline",
  "{a,b} $HOME 'q' \"r\" 100%25 #x",
  "-",
  os.fsdecode(b"not-utf8-\xff"),
)
STATE = {"w": jnp.arange(6.0).reshape(2, 3), "n": np.arange(3, dtype=np.uint8)}


def command(*args):
  __main__.main([str(arg) for arg in args])


@pytest.mark.checklist("C2")
@pytest.mark.parametrize("name", ODD)
def test_a_state_comes_back_from_any_path(tmp_path, name):
  directory = tmp_path / name / "checkpoints"
  Checkpoints(directory).save(1, STATE, wait=True)
  checkpoints = Checkpoints(directory)
  checkpoints.save(2, STATE, wait=True)
  assert checkpoints.steps() == [1, 2]
  state, step, _ = Checkpoints(directory).restore(STATE)
  assert step == 2
  jax.tree.map(np.testing.assert_array_equal, state, STATE)


@pytest.mark.checklist("C2")
def test_what_does_not_read_back_is_not_verified(tmp_path, monkeypatch):
  # As if Orbax looked for its parts by a pattern, as it does.
  monkeypatch.setattr(arrays, "_PLAIN", arrays.re.compile(".*"))
  checkpoints = Checkpoints(tmp_path / "[x]")
  with pytest.raises(CheckpointError, match="Saving step 1"):
    checkpoints.save(1, STATE, wait=True)
  assert Checkpoints(tmp_path / "[x]").latest_verified() is None
  assert not checkpoints.steps()


def test_a_save_of_other_shapes_is_not_verified(tmp_path, monkeypatch):
  save = arrays.ocp.AsyncCheckpointer.save
  monkeypatch.setattr(
    arrays.ocp.AsyncCheckpointer,
    "save",
    lambda self, path, args: save(
      self, path, args=type(args)({"packed": args.item["packed"][1:]})
    ),
  )
  with pytest.raises(CheckpointError, match="packed.*reads back as"):
    Checkpoints(tmp_path).save(1, STATE, wait=True)


def test_arrays_that_cannot_be_read_are_named(tmp_path, monkeypatch):
  # What earlier releases left in such folders: sums that match.
  monkeypatch.setattr(arrays, "_PLAIN", arrays.re.compile(".*"))
  monkeypatch.setattr(arrays, "_check", lambda path, tree: None)
  Checkpoints(tmp_path / "[x]").save(1, STATE, wait=True)
  monkeypatch.undo()
  with pytest.raises(CheckpointError, match="cannot be read as arrays.*Remove"):
    Checkpoints(tmp_path / "[x]").restore(STATE)


def small(**changes):
  config = okddip_digits.get_config("smoke")
  config.peers.net, config.peers.num_peers = "own_networks:Small", 2
  config.method = recipes.method("independent")
  config.mesh.data = 1
  config.epochs, config.rampup_epochs = 1, 1
  config.update_from_flattened_dict(changes)
  return freeze.freeze(config)


@pytest.fixture(scope="module")
def odd_run(tmp_path_factory):
  """A finished run in a folder with everything in its path."""
  workdir = tmp_path_factory.mktemp("odd") / "lr=[0.1] *?" / "a\\b 大 $X"
  train.train(small(), workdir)
  return workdir


@pytest.mark.long
def test_every_command_takes_any_path(odd_run, tmp_path, capsys):
  grey = Image.fromarray(np.full((8, 8), 99, np.uint8))
  picture = tmp_path / "[p]*.png"
  grey.save(picture)
  state, result = train.train(small(extra_epochs=1), odd_run)
  assert int(state.step) == result["last"]["step"] == 10
  capsys.readouterr()
  command("eval", odd_run, "--json")
  assert json.loads(capsys.readouterr().out)["step"] == 10
  to = tmp_path / "[to]" / "net"
  to.parent.mkdir()
  command("export", odd_run, "--what=peer_1", f"--to={to}")
  capsys.readouterr()
  command("predict", to, picture, "--json")
  assert json.loads(capsys.readouterr().out)[0]["image"] == str(picture)
  command("predict", odd_run, tmp_path, "--json")
  assert len(json.loads(capsys.readouterr().out)) == 1
  command("plot", odd_run, f"--to={tmp_path / '[plots]'}")
  assert (tmp_path / "[plots]" / "loss.svg").exists()
  command("report", odd_run, f"--to={tmp_path / '[r].html'}")
  assert (tmp_path / "[r].html").exists()


@pytest.mark.long
def test_a_run_starts_from_weights_in_any_path(odd_run):
  setup = run_lib.run(odd_run).setup
  drawn = state_lib.init(setup, jax.random.key(5))
  for source in (odd_run, odd_run / "leader"):
    state = init_from.fill(setup, drawn, source)
    assert jax.tree.structure(state) == jax.tree.structure(drawn)


@pytest.mark.slow  # trains two runs more
def test_a_comparison_takes_any_path(tmp_path):
  from configs import compare_digits

  config = compare_digits.get_config("smoke")
  config.methods, config.seeds = ("independent",), (0,)
  config.nets = ("own_networks:Small",)
  config.base.epochs = config.base.rampup_epochs = 1
  config.base.mesh.data = 1
  workdir = tmp_path / "c[0-9] *"
  assert not compare.compare(freeze.freeze_comparison(config), workdir)
  command("report", workdir)
  assert (workdir / "report.html").exists()


def test_pictures_lie_in_any_path(tmp_path):
  root = tmp_path / "[set] *?" / "größe"
  for name in ("[a]", "b*"):
    (root / name).mkdir(parents=True)
    for i in range(5):
      grey = Image.fromarray(np.full((8, 8), 9 * i, np.uint8))
      grey.save(root / name / f"[{i}]?.png")
  for source in ("memory", "stream"):
    made = data.make(
      {"name": f"folder:{root}", "source": source, "image_size": 8},
      batch_size=2,
      eval_batch_size=2,
      seed=0,
    )
    assert made.info.class_names == ("[a]", "b*")
    assert sum(int(b.mask.sum()) for b in made.evaluation("test")) == 2


# As in the shell.


@pytest.fixture
def home(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.setenv("WHERE", str(tmp_path))
  monkeypatch.setenv("PART", "b")
  monkeypatch.delenv("NOWHERE", raising=False)
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.mark.parametrize(
  "written", ["~/a/b", "$WHERE/a/b", "${WHERE}/a/$PART", "~/a/${PART}"]
)
def test_home_and_variables_are_replaced(home, written):
  assert paths.expand(written) == home / "a" / "b"
  assert paths.expand(Path(written)) == home / "a" / "b"


def test_what_is_not_set_is_refused(home, monkeypatch):
  for written in ("$NOWHERE/a", "a/${NOWHERE}"):
    with pytest.raises(ConfigError, match="NOWHERE.*not set"):
      paths.expand(written)
  with pytest.raises(ConfigError, match="user who is not known"):
    paths.expand("~nobody-at-all/a")
  # What a variable holds is no name of a variable.
  monkeypatch.setenv("PART", "cost$NOWHERE")
  assert paths.expand("~/$PART") == home / "cost$NOWHERE"
  # Not names of variables, or there as they are written.
  (home / "$NOWHERE").touch()
  for written in ("cost$5", "a$", "./~", "$NOWHERE", "a/~b"):
    assert paths.expand(written) == Path(written)


def test_the_work_directory_is_expanded(home):
  recipe = Path(okddip_digits.__file__)
  argv = ["main.py", f"--config={recipe}:smoke", "--workdir=~/runs/a"]
  assert common.read_recipe(argv)[1] == home / "runs" / "a"
  argv[-1] = "--workdir=$NOWHERE/a"
  with pytest.raises(ConfigError, match="NOWHERE"):
    common.read_recipe(argv)


def test_a_recipe_is_expanded(home):
  shutil.copy(okddip_digits.__file__, home / "somebody.py")
  for words in (
    ["--config=~/somebody.py:smoke"],
    ["--config", "$WHERE/somebody.py"],
  ):
    workdir = common.read_recipe(["main.py", *words])[1]
    assert workdir.name.startswith("somebody-")
  with pytest.raises(ConfigError, match="NOWHERE"):
    common.read_recipe(["main.py", "--config=$NOWHERE/somebody.py"])


def test_a_work_directory_that_cannot_be_is_refused(tmp_path):
  recipe = Path(okddip_digits.__file__)
  (tmp_path / "file").touch()
  for name, why in (("file", "file is no folder"), ("x" * 300, "too long")):
    argv = ["main.py", f"--config={recipe}", f"--workdir={tmp_path / name}"]
    with pytest.raises(ConfigError, match=f"cannot be written: .*{why}"):
      common.read_recipe(argv)
  with pytest.raises(ConfigError, match="cannot be read .File name too long"):
    run_lib.saved_config(tmp_path / ("x" * 300))


class Away:
  """In a bucket that does not answer."""

  def __fspath__(self):
    return "gs://away/run"

  def __truediv__(self, name):
    return self

  def exists(self):
    raise ConnectionError("nobody answers")

  is_file = is_dir = exists
  name, parent = "run", property(lambda self: self)

  def glob(self, pattern):
    self.exists()


def test_weights_in_a_bucket_out_of_reach_are_said(tmp_path, monkeypatch):
  monkeypatch.setattr(paths, "anywhere", lambda text: Away())
  config = freeze.freeze(okddip_digits.get_config("smoke"))
  with pytest.raises(UnreachableError, match="gs://away/run .*nobody"):
    init_from.check(freeze.replace(config, {"init_from": "x"}), tmp_path)
  taught = {"teacher": "x", "method": freeze.method_section("kd")}
  with pytest.raises(UnreachableError, match="gs://away/run .*nobody"):
    config_lib.check(freeze.replace(config, taught))


@pytest.mark.parametrize(
  "read",
  [
    records.read_metrics,
    run_lib.exists,
    run_lib.has_data,
    run_lib.saved_config,
    rows.exists,
    exported.folder_of,
    predict.open_network,
    lambda path: Checkpoints(path).steps(),
    lambda path: closer_page.parts(path, "a"),
  ],
)
def test_a_bucket_out_of_reach_is_said_whatever_reads_it(read, monkeypatch):
  def away(folder, parts):
    return [bucket._explained(ConnectionError("nobody"), os.fspath(folder))]

  monkeypatch.setattr(bucket, "read", away)
  with pytest.raises(UnreachableError, match="gs://away/run .*nobody"):
    read(Away())


def test_what_can_be_computed_again_needs_no_home(monkeypatch):
  assert paths.cache("x") == Path.home() / ".cache" / "okd_jax" / "x"

  def unknown():
    raise RuntimeError("Could not determine home directory.")

  monkeypatch.setattr(Path, "home", unknown)
  assert paths.cache("x").parts[-3:] == (".cache", "okd_jax", "x")


def test_every_argument_that_is_a_path_is_expanded(home):
  import importlib

  found = set()
  for name in __main__.COMMANDS:
    module = importlib.import_module(f"okd_jax.cli.{name.replace('-', '_')}")
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    for action in parser._actions:
      assert action.type is not Path, f"{name}: {action.dest}"
      refused = (argparse.ArgumentTypeError, TypeError, ValueError)
      with contextlib.suppress(*refused):
        if action.type("~/a.png") == home / "a.png":
          found.add((name, action.dest))
  assert {
    ("eval", "workdir"),
    ("eval", "data"),
    ("export", "to"),
    ("predict", "target"),
    ("predict", "images"),
    ("predict", "boxes"),
    ("predict", "to"),
    ("predict", "draw"),
    ("plot", "workdirs"),
    ("plot", "to"),
    ("report", "to"),
    ("data", "show"),
    ("new-method", "to"),
  } <= found


@pytest.mark.parametrize("written", ["~/{}", "$WHERE/{}"])
def test_every_setting_that_is_a_path_is_expanded(home, odd_run, written):
  shutil.copytree(odd_run, home / "run")
  there = written.format("run")
  config = small(init_from=there)
  init_from.check(config, home / "new")
  teacher = dataclasses.replace(
    small(), method=freeze.method_section("kd"), teacher=there
  )
  config_lib.check(teacher)
  from okd_jax.devices.mesh import make_mesh
  from okd_jax.weights import teacher as teacher_lib

  assert teacher_lib.load(teacher, run_lib.about(odd_run)[1], make_mesh(1))[0]
  assert tfds.data_dir(written.format("data")) == home / "data"
  for name in ("a", "b"):
    (home / "set" / name).mkdir(parents=True)
    grey = Image.fromarray(np.zeros((8, 8), np.uint8))
    grey.save(home / "set" / name / "0.png")
  assert finder.find(written.format("set")).class_names == ("a", "b")


def test_a_published_file_is_expanded(home):
  from configs import compare_digits

  config = compare_digits.get_config("smoke")
  recipe = freeze.freeze_comparison(config)
  shutil.copyfile(recipe.published, home / "figures.json")
  recipe = dataclasses.replace(recipe, published="~/figures.json")
  compare._remember(recipe, home / "compared")
  assert (home / "compared" / "published.json").exists()
