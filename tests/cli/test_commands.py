"""The commands around training, as a user calls them."""

import contextlib
import dataclasses
import importlib
import io
import json
import logging
import os
from pathlib import Path
import shutil
import subprocess
import sys
import types

from etils import epath
import jax
import numpy as np
from PIL import Image
import pytest
import read_only

from okd_jax import __main__, train
from okd_jax.cli import doctor
from okd_jax.devices.mesh import make_mesh
from okd_jax.errors import CheckpointError, ConfigError, DataError
from okd_jax.runs import records, run as run_lib, trackers
from okd_jax.settings import build, freeze
from okd_jax.tasks import asking as asking_lib
from okd_jax.training import state as state_lib
from okd_jax.weights import exported, init_from, predict

ROOT = Path(__file__).parents[2]


def command(*args):
  __main__.main([str(arg) for arg in args])


@contextlib.contextmanager
def leaving(code):
  with pytest.raises(SystemExit) as left:
    yield
  assert left.value.code == code


def test_a_command_waits_for_no_other(monkeypatch, capsys):
  whole, imported = importlib.import_module, []

  def record(name, *args):
    if name.startswith("okd_jax.cli."):
      imported.append(name)
    return whole(name, *args)

  monkeypatch.setattr(importlib, "import_module", record)
  with leaving(0):
    command("new-method", "--help")
  assert imported == ["okd_jax.cli.new_method"]
  with leaving(0):
    command("--help")
  assert len(imported) == 1 + len(__main__.COMMANDS)
  said = capsys.readouterr().out
  assert all(name in said for name in __main__.COMMANDS)


@pytest.fixture
def pictures(tmp_path):
  """A folder with images of many kinds."""
  rng = np.random.default_rng(0)
  folder = tmp_path / "pictures"
  (folder / "more").mkdir(parents=True)
  for name, mode, size in (
    ("a.png", "RGBA", (30, 17)),
    ("b.jpg", "L", (8, 8)),
    ("c.gif", "P", (5, 40)),
    ("more/d.bmp", "RGB", (64, 64)),
  ):
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(folder / name)
  (folder / "notes.txt").write_text("not an image")
  return folder


def test_eval_counts_exactly(trained, capsys):
  command("eval", trained, "--all-peers", "--json")
  result = json.loads(capsys.readouterr().out)
  run = run_lib.run(trained)
  source = build.source(run.config)
  net, variables = run.setup.peers.extract(run.peers_variables, 0)
  correct = 0
  for batch in source.evaluation("test"):
    images = run.setup.task.normalize(batch).image
    logits = jax.jit(lambda v, x: net.apply(v, x, train=False).logits)(
      variables, images
    )
    correct += int(np.sum((np.argmax(logits, -1) == batch.target) & batch.mask))
  figures = result["figures"]
  assert (result["count"], result["step"]) == (360, run.step)
  assert figures["peer_0"]["correct"] == correct
  assert figures["peer_0"]["accuracy"] == correct / 360
  assert set(figures) == {"leader", "peer_0", "peer_1", "peer_2", "ensemble"}
  assert figures["leader"] == figures["peer_2"]
  (recorded,) = [
    r for r in records.read_metrics(trained) if r["kind"] == "eval"
  ]
  for figure in ("accuracy_top5", "cross_entropy", "calibration_error"):
    name = f"test/ensemble/{figure}"
    assert figures["ensemble"][figure] == pytest.approx(recorded[name], 1e-4)


def test_predict_reads_any_image(trained, pictures, capsys):
  command("predict", trained / "leader", pictures, "--json")
  by_leader = json.loads(capsys.readouterr().out)
  assert [result["image"] for result in by_leader] == [
    str(pictures / name) for name in ("a.png", "b.jpg", "c.gif", "more/d.bmp")
  ]
  for result in by_leader:
    values = [p["probability"] for p in result["predictions"]]
    assert len(values) == 5
    assert values == sorted(values, reverse=True)
    assert {p["class"] for p in result["predictions"]} < set("0123456789")
  command("predict", trained, *(r["image"] for r in by_leader), "--json")
  by_run = json.loads(capsys.readouterr().out)
  for one, other in zip(by_leader, by_run, strict=True):
    assert one["image"] == other["image"]
    best, same = one["predictions"][0], other["predictions"][0]
    assert best["class"] == same["class"]
    assert best["probability"] == pytest.approx(same["probability"], 1e-4)
  # The picture that needs no resizing, by hand.
  pixels = np.asarray(Image.open(pictures / "b.jpg"), np.float32) / 255
  apply, variables = exported.load_leader(trained / "leader")
  probabilities = jax.nn.softmax(apply(variables, pixels[None, :, :, None]))[0]
  best = by_leader[1]["predictions"][0]
  assert best["class"] == str(int(np.argmax(probabilities)))
  assert best["probability"] == pytest.approx(float(probabilities.max()), 1e-4)


class Painting(asking_lib.Asking):
  """Draws what it was asked about, in red."""

  heads = ()

  def question(self, file, number):
    return asking_lib.Question(file, np.zeros((1, 2)))

  def answer(self, question, logits):
    return []

  def cells(self, answer):
    return []

  def draw(self, file, answer):
    return Image.new("RGB", (3, 2), "red")


@pytest.fixture
def painter(monkeypatch):
  network = predict.Network(Painting({}), lambda views: views)
  monkeypatch.setattr(predict, "open_network", lambda *args, **kwargs: network)


def test_drawings_replace_drawings_alone(painter, pictures, tmp_path, capsys):
  shutil.copy(pictures / "a.png", pictures / "a_2.png")
  shutil.copy(pictures / "a.png", pictures / "more" / "a.png")
  before = {p: p.read_bytes() for p in pictures.rglob("*") if p.is_file()}
  for _ in range(2):
    command("predict", "net", pictures, f"--draw={tmp_path / 'drawn'}")
  drawn = sorted(path.name for path in (tmp_path / "drawn").iterdir())
  assert drawn == ["a.png", "a_2.png", "a_3.png", "b.png", "c.png", "d.png"]
  # Not one that is asked about, another one, a link to one, or a drawing.
  (tmp_path / "links").mkdir()
  (tmp_path / "links" / "b.png").symlink_to(pictures / "b.jpg")
  for asked, folder in (
    (pictures / "a.png", pictures),
    (pictures / "more" / "a.png", pictures),
    (pictures / "b.jpg", tmp_path / "links"),
    (tmp_path / "drawn" / "c.png", tmp_path / "drawn"),
    # Nor among pictures that the next call would look for.
    (pictures, pictures / "drawn"),
  ):
    with leaving(ConfigError.exit_code):
      command("predict", "net", asked, f"--draw={folder}")
    assert "choose another folder" in capsys.readouterr().err
  assert {p: p.read_bytes() for p in before} == before


def test_what_says_nothing_to_draw_is_not_asked(
  trained, pictures, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(predict, "ask", None)
  with leaving(ConfigError.exit_code):
    command("predict", trained, pictures, f"--draw={tmp_path}")
  assert "leave --draw out" in capsys.readouterr().err


@pytest.mark.parametrize("above", ["file", "file/in", "dangling", "x" * 300])
@pytest.mark.parametrize(
  "given, folder",
  [
    ("export run --to", True),
    ("plot run --to", True),
    ("eval run --to", True),
    ("new-method name --to", True),
    ("predict run a.png --draw", True),
    ("predict run a.png --to", False),
    ("report run --to", False),
    ("data folder --show", False),
  ],
)
def test_places_that_cannot_be_written_are_refused_at_once(
  tmp_path, capsys, given, folder, above
):
  (tmp_path / "file").touch()
  (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
  (tmp_path / "there.png").mkdir()
  *words, flag = given.split()
  places = [tmp_path / above] if folder else [tmp_path / above / "a.png"]
  for place in [*places, *([] if folder else [tmp_path / "there.png"])]:
    with leaving(ConfigError.exit_code):
      command(*words, f"{flag}={place}")
    said = capsys.readouterr().err
    assert f"{place} cannot be written" in said and "another place" in said


def test_a_sheet_is_a_png(tmp_path, capsys):
  with leaving(ConfigError.exit_code):
    command("data", tmp_path, f"--show={tmp_path / 'sheet.xyz'}")
  assert "sheet.xyz must be a file that ends in .png" in capsys.readouterr().err


def test_export_and_plot_say_what_they_wrote(trained, tmp_path, capsys):
  command("export", trained, "--what=peer_1", f"--to={tmp_path / 'one'}")
  assert f"is in {tmp_path / 'one'}." in capsys.readouterr().out
  assert exported.read_card(tmp_path / "one")["what"] == "peer_1"
  command("plot", trained)
  assert str(trained / "plots" / "loss.png") in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.checklist("F1")
def test_a_run_in_a_read_only_folder(trained, pictures, tmp_path, capsys):
  run = tmp_path / "read [only]"
  shutil.copytree(trained, run)
  with read_only.read_only(run):
    with pytest.raises(PermissionError):
      (run / "anything").touch()
    command("eval", run)
    command("predict", run, pictures)
    command("predict", run / "leader", pictures)
    for what, name in (("export", "net"), ("plot", "plots"), ("report", "it")):
      command(what, run, f"--to={tmp_path / name}")
      assert (tmp_path / name).exists()
    for what in ("export", "plot", "report", "eval --per-class"):
      what, *option = what.split()
      with leaving(ConfigError.exit_code):
        command(what, run, *option)
      said = capsys.readouterr().err
      assert str(run) in said and "is read-only; write elsewhere by" in said


def test_names_that_cannot_be_printed_are_escaped(
  trained, pictures, tmp_path, monkeypatch
):
  for name in (b"\xff.jpg", b"a\nb.jpg", b"\xc3\xbc.jpg", b"c\x1b[2J\n"):
    shutil.copy(pictures / "b.jpg", tmp_path / os.fsdecode(name))
  for encoding in ("utf-8", "ascii"):
    written = io.BytesIO()
    shown = io.TextIOWrapper(written, encoding, "strict")
    with monkeypatch.context() as patch:
      patch.setattr(sys, "stdout", shown)
      command("predict", trained / "leader", tmp_path)
    lines = written.getvalue().decode(encoding).splitlines()
    names = [line.split("  ")[0] for line in lines if str(tmp_path) in line]
    umlaut = "ü" if encoding == "utf-8" else r"\xfc"
    assert {Path(name).name for name in names} >= {
      r"\udcff.jpg",
      r"a\nb.jpg",
      f"{umlaut}.jpg",
      r"c\x1b[2J\n",
    }


def test_data_reports_damage_and_duplicates(pictures, tmp_path, capsys):
  folder = tmp_path / "set"
  for name in ("cat", "dog"):
    (folder / name).mkdir(parents=True)
    content = (pictures / "a.png").read_bytes()
    (folder / name / "x.png").write_bytes(content)
  (folder / "dog" / "y.jpg").write_bytes((pictures / "b.jpg").read_bytes())
  command("data", folder)
  said = capsys.readouterr().out
  assert "30 x 17" in said
  assert f"Equal files: {folder / 'cat/x.png'}, {folder / 'dog/x.png'}" in said
  (folder / "dog" / "y.png").symlink_to(tmp_path / "nothing.png")
  (folder / "dog" / "z.png").write_bytes(content[:100])
  with leaving(DataError.exit_code):
    command("data", folder, "--json")
  report = json.loads(capsys.readouterr().out)
  assert report["counts"] == {"all": {"cat": 1, "dog": 4}}
  assert report["sizes"] == {"30x17": 2, "8x8": 1}
  damaged = [str(folder / "dog" / name) for name in ("y.png", "z.png")]
  assert list(report["damaged"]) == damaged


def test_doctor_reports_what_is_wrong(monkeypatch, capsys):
  monkeypatch.setattr(doctor, "make_mesh", lambda **_: make_mesh(1, 1))
  command("doctor")
  said = capsys.readouterr().out
  for word in ("jax ", "free disk", "memory", "cifar100", "loss"):
    assert word in said
  monkeypatch.setattr(doctor, "_first_loss", lambda: 1 / 0)
  with leaving(1):
    command("doctor")
  assert "PROBLEM: ZeroDivisionError" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_training_says_how_it_is_used(word, monkeypatch, capsys):
  import main

  monkeypatch.setattr(sys, "argv", ["main.py", word])
  main.main()
  said = capsys.readouterr().out
  for part in ("--config=", "--workdir=", "docs/settings.md", "-m okd_jax"):
    assert part in said


@pytest.mark.parametrize(
  "args, code, message",
  [
    (
      ["eval", "{tmp}"],
      ConfigError.exit_code,
      "is not the work directory of a run",
    ),
    (["eval"], ConfigError.exit_code, "WORKDIR"),
    (["train"], ConfigError.exit_code, "invalid choice"),
    (["predict", "{tmp}", "x.png"], ConfigError.exit_code, "is not the work"),
    (["predict", "{leader}", "{tmp}"], DataError.exit_code, "holds no image"),
    (
      ["predict", "{leader}", "x.png"],
      DataError.exit_code,
      "x.png does not exist",
    ),
    (
      ["predict", "{leader}", __file__],
      DataError.exit_code,
      "cannot be decoded",
    ),
    (
      ["eval", "{run}", "--split=validation"],
      DataError.exit_code,
      "is empty; choose test.",
    ),
    (["export", "{run}", "--what=me"], ConfigError.exit_code, "leader, peer_0"),
    (["export", "{run}", "--what="], ConfigError.exit_code, "leader, peer_0"),
    (["data", "{tmp}"], DataError.exit_code, "class folders"),
  ],
)
def test_mistakes_end_with_a_code(
  trained, tmp_path, capsys, args, code, message
):
  places = {"tmp": tmp_path, "run": trained, "leader": trained / "leader"}
  with leaving(code):
    command(*(arg.format(**places) for arg in args))
  assert message in capsys.readouterr().err


def test_a_run_starts_from_another(trained):
  run = run_lib.run(trained)
  drawn = state_lib.init(run.setup, jax.random.key(5))
  state = init_from.fill(run.setup, drawn, trained)
  jax.tree.map(
    np.testing.assert_array_equal,
    (state.params["peers"], state.memory["peers"]),
    (run.state.params["peers"], run.state.memory["peers"]),
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    (state.step, state.opt_state, state.params["method"]),
    (drawn.step, drawn.opt_state, drawn.params["method"]),
  )


def recipe_like(trained, **peers):
  config, info, train_size = run_lib.about(trained)
  changes = {f"peers.{name}": value for name, value in peers.items()}
  config = freeze.replace(config, changes)
  return build.setup(config, info, train_size, make_mesh(1, 1))


@pytest.mark.parametrize(
  "peers",
  [
    {"kind": "replicas"},
    {"kind": "branches"},
    {"net": "resnet8,resnet8,resnet8"},
  ],
  ids=["replicas", "branches", "mixed"],
)
def test_peers_start_from_a_leader(trained, peers):
  recipe = recipe_like(trained, **peers)
  drawn = state_lib.init(recipe, jax.random.key(5))
  state = init_from.fill(recipe, drawn, trained / "leader")

  def flat(state, peer):
    variables = state_lib.variables(state.params, state.memory, "peers")
    return exported.flatten(recipe.peers.extract(variables, peer)[1])

  card = exported.read_card(trained / "leader")
  weights = exported.read_weights(trained / "leader", card)
  for peer in range(3):
    before, after = flat(drawn, peer), flat(state, peer)
    assert set(after) == set(weights)
    for name, value in after.items():
      drawn_anew = "head_linear" in name and peer != 2
      expected = before[name] if drawn_anew else weights[name]
      np.testing.assert_array_equal(value, expected, err_msg=name)


def test_weights_of_another_shape_are_refused(trained):
  recipe = recipe_like(trained, num_peers=2)
  drawn = state_lib.init(recipe, jax.random.key(5))
  with pytest.raises(ConfigError, match="config.init_from=.*shape"):
    init_from.fill(recipe, drawn, trained)
  other = recipe_like(trained, net="resnet20")
  drawn = state_lib.init(other, jax.random.key(5))
  with pytest.raises(ConfigError, match="stage1_block1.*absent"):
    init_from.fill(other, drawn, trained / "leader")


@pytest.mark.checklist("G1")
def test_a_run_that_cannot_start_leaves_its_folder_free(trained, tmp_path):
  nowhere = str(tmp_path / "nowhere")
  config = dataclasses.replace(run_lib.about(trained)[0], init_from=nowhere)
  with pytest.raises(ConfigError, match="nowhere is not the work"):
    train.train(config, tmp_path / "new")
  assert not (tmp_path / "new" / "config.json").exists()


def test_a_damaged_leader_ends_with_a_code(trained, tmp_path, capsys):
  shutil.copytree(trained / "leader", tmp_path / "leader")
  (tmp_path / "leader" / exported.WEIGHTS).write_bytes(b"")
  with leaving(CheckpointError.exit_code):
    command("predict", tmp_path / "leader", "x.png")
  assert "does not match the SHA-256" in capsys.readouterr().err


@pytest.mark.checklist("I1")
def test_trackers_that_fail_are_one_warning(
  trained, tmp_path, monkeypatch, caplog
):
  told = []
  workdir = tmp_path / "seed3"
  workdir.mkdir()
  mlflow = types.SimpleNamespace(
    set_experiment=lambda name: None,
    search_runs=lambda **asked: [],
    start_run=lambda run_name, tags: told.append(run_name),
    log_params=lambda params: told.append(params["peers.num_peers"]),
    log_metrics=lambda metrics, step: told.append((step, metrics)),
    end_run=lambda: told.append("end"),
  )
  monkeypatch.setitem(sys.modules, "mlflow", mlflow)
  monkeypatch.setitem(sys.modules, "wandb", None)  # as if not installed
  trackers_asked = ("wandb", "mlflow")
  config = dataclasses.replace(
    run_lib.about(trained)[0], trackers=trackers_asked
  )
  with caplog.at_level(logging.WARNING):
    with trackers.started(config, workdir) as found:
      for tracker in found:
        tracker.log(3, {"loss": 1.0})
  assert told == ["seed3", 3, (3, {"loss": 1.0}), "end"]
  (record,) = caplog.records
  assert record.getMessage().startswith("wandb does not track this run")


def test_runs_of_wandb_are_told_apart(trained, tmp_path, monkeypatch):
  told = []
  run = types.SimpleNamespace(finish=lambda: None)
  wandb = types.SimpleNamespace(init=lambda **kept: told.append(kept) or run)
  monkeypatch.setitem(sys.modules, "wandb", wandb)
  config = dataclasses.replace(run_lib.about(trained)[0], trackers=("wandb",))
  workdirs = [tmp_path / name / "seed0" for name in ("a", "b")]
  for workdir in [*workdirs, *workdirs]:
    workdir.mkdir(parents=True, exist_ok=True)
    with trackers.started(config, workdir) as found:
      assert found
  ids = [kept["id"] for kept in told]
  assert ids[:2] == ids[2:] and len(set(ids)) == 2
  assert [kept["dir"] for kept in told[:2]] == [str(path) for path in workdirs]
  # A bucket is no place of this machine.
  monkeypatch.setattr(trackers.files, "text", lambda path: "as before")
  address = epath.Path("gs://runs/a/seed0")
  with trackers.started(config, address) as found:
    assert found
  assert (told[-1]["dir"], told[-1]["id"]) == (None, "as before")


@pytest.mark.long
@pytest.mark.parametrize("unbuffered", ("", "1"))
@pytest.mark.parametrize("lines", (1, 20_000))
def test_a_command_whose_output_is_cut_off_ends_quietly(lines, unbuffered):
  program = (
    "import sys; from okd_jax.cli import common\n"
    "with common.exit_codes():\n"
    "  sys.stdin.readline()\n"  # until the pipe is closed
    f"  common.print_json(list(range({lines})))\n"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", program],
    env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    cwd=ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  process.stdout.close()
  _, said = process.communicate("go on\n", timeout=100)
  assert said == ""
  assert process.returncode in (0, 1)


@pytest.mark.long
def test_a_broken_pipe_elsewhere_is_no_closed_output():
  program = (
    "from okd_jax.cli import common\n"
    "with common.exit_codes():\n"
    "  raise BrokenPipeError('to a worker')\n"
  )
  done = run_python("-c", program)
  assert "BrokenPipeError: to a worker" in done.stderr


MISSING = """
import runpy, sys
class Base:
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in {blocked}:
      raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)
sys.meta_path.insert(0, Base())
sys.argv[1:] = {arguments}
{run}
"""
PROGRAMS = {
  "okd_jax": "runpy.run_module('okd_jax', run_name='__main__')",
  "main": "runpy.run_path('main.py', run_name='__main__')",
}


@pytest.mark.long
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
  "blocked",
  (
    "absl ml_collections orbax PIL tensorboardX rich sklearn".split(),
    # Without those that flax brings along.
    "ml_collections PIL tensorboardX rich sklearn".split(),
    ["rich"],
    # Of the base install, where it is broken.
    ["jax"],
    ["flax"],
    ["optax"],
  ),
  ids=lambda names: names[0],
)
def test_a_program_says_what_is_missing(program, blocked):
  run = PROGRAMS[program]
  done = run_python(
    "-c", MISSING.format(blocked=blocked, arguments=["--help"], run=run)
  )
  assert done.returncode == ConfigError.exit_code
  assert "pip install -r requirements.txt" in done.stderr
  assert "pip install -r requirements.txt" in done.stderr
  assert "Traceback" not in done.stderr
  assert done.stderr.count("\n") == 1


def run_python(*arguments):
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=100,
  )
