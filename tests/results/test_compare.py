"""Comparisons: the grid, its runs, what is left after a break, the tables."""

import csv
import dataclasses
import importlib
import json
import os
from pathlib import Path
import signal

import folder_recipe
import numpy as np
from PIL import Image
import pytest

from cells import pretend, small
from configs import compare_digits
from okd_jax import __main__, backbones, compare, methods, train
from okd_jax.cli import common as cli
from okd_jax.data.keypoints.info import KeypointInfo
from okd_jax.errors import (
  ConfigError,
  Interrupted,
  NotFiniteError,
  UnreachableError,
)
from okd_jax.results import (
  comparison as result_tables,
  comparison_plots as compare_plots,
  findings,
  formats,
  grid,
  relative,
  rows as results,
  together,
)
from okd_jax.settings import freeze
from okd_jax.tasks import classification
from okd_jax.tasks.figure import of_record
import toys

# ml_collections loads recipes in a way that is going out of use.
reads_recipes = pytest.mark.filterwarnings("ignore:the load_module.. method")

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = json.loads((ROOT / "configs" / "published.json").read_text())


KINDS = dict(compare_digits.get_config().kinds)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A comparison with a teacher, run to its end."""
  workdir = tmp_path_factory.mktemp("compare")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train, "_export_and_plot", lambda run: None)
    failed = compare.compare(small(methods=("kd",)), workdir)
  return workdir, failed


@pytest.fixture
def pretending(monkeypatch):
  """Runs of no time: a list of the cells trained, and what to do in them."""
  ran, events = [], {}

  def fake(config, workdir, stop, still_ours, like):
    name = "/".join(workdir.parts[-3:])
    ran.append(name)
    if name in events:
      events[name]()
    pretend(config, workdir)

  monkeypatch.setattr(train, "train", fake)
  return ran, events


def raising(error):
  def act(*args, **kwargs):
    raise error

  return act


def test_every_cell_is_one_recipe(tmp_path):
  config = freeze.freeze_comparison(compare_digits.get_config())
  cells = grid.cells(config, tmp_path)
  assert len(cells) == 3 * (2 + len(toys.OF_CLASSES))
  grid.check(config, cells)
  base = freeze.flatten(config.base)
  for cell in cells:
    flat = freeze.flatten(cell.config)
    changed = {key for key in base if flat[key] != base[key]}
    own = {"seed", "teacher", "peers.net", "peers.kind", "peers.num_peers"}
    own |= {"data.per_class", "peers.split"}
    assert changed <= own
    assert flat["seed"] == cell.seed
    expected = methods.options(flat["method.name"])
    if flat["method.name"] == "ctkd":
      expected["attention_weight"] = 1000 / 16
    assert {k: flat[f"method.{k}"] for k in expected} == expected
  named = {cell.name: cell.config for cell in cells}
  kinds = {cell.row for cell in cells if cell.config.peers.kind == "branches"}
  assert kinds == {"cl_ilr", "ctkd", "mcl_okd", "oem", "one", "pcl"}
  teacher = "resnet8/kd_teacher/seed1"
  for student in ("resnet8/kd/seed1", "resnet8/ctkd/seed1"):
    assert list(named).index(teacher) < list(named).index(student)
    assert named[student].teacher == str(tmp_path / teacher)
  students = named["resnet8/oem/seed0"].peers
  assert students.net.split(",")[4] == "resnet8@1/5" and students.split == -1
  assert named[teacher].peers.net == "resnet20"
  paired = named["resnet8/switokd/seed0"].peers
  assert (paired.net, paired.num_peers) == ("resnet20,resnet8", 2)
  for alone in ("baseline", "kd_teacher"):
    assert named[f"resnet8/{alone}/seed0"].peers.num_peers == 1
    assert named[f"resnet8/{alone}/seed0"].method.name == "independent"


@reads_recipes
def test_methods_have_options_of_their_own(tmp_path):
  recipe = f"--config={ROOT}/configs/compare_digits.py:smoke"
  flags = [
    *("compare", recipe, "--config.methods=('dml','okddip')"),
    *("--config.options.dml.temperature=5", "--config.seeds=(0,)"),
    *("--grid.method.kd_weight=(2.0,)", "--config.options.dml.kd_weight=7"),
  ]
  config, _ = cli.read_comparison(flags)
  cells = grid.cells(config, tmp_path)
  grid.check(config, cells)
  made = {cell.method: freeze.flatten(cell.config) for cell in cells}
  standard = methods.options("okddip")["temperature"]
  assert made["dml"]["method.temperature"] == 5 != standard
  assert made["okddip"]["method.temperature"] == standard
  # A grid comes before them.
  assert made["dml"]["method.kd_weight"] == 2


@pytest.mark.parametrize(
  "name",
  [
    *("digits", "few_digits", "fashion_mnist", "few_fashion_mnist"),
    *("c10", "c100", "stickfolk"),
  ],
)
def test_every_comparison_passes_the_checks(name, tmp_path):
  module = importlib.import_module(f"configs.compare_{name}")
  assert f"configs/compare_{name}.py" in module.__doc__
  for words in ("", "smoke", "resnet20,vgg16" if "c1" in name else ""):
    config = freeze.freeze_comparison(module.get_config(words))
    grid.check(config, grid.cells(config, tmp_path))
  assert module.get_config("resnet20,vgg16").nets == ("resnet20", "vgg16")


@pytest.mark.parametrize(
  "content, message",
  [
    ("[", "Expecting value"),
    ("[]", "no 'sources' and 'figures'"),
    ('{"sources": {}, "figures": [{"net": "x"}]}', "a figure has no 'data'"),
    (
      '{"sources": {}, "figures": [{"data": "x", "net": "x", "method": "x", '
      '"source": "paper"}]}',
      "'sources' has no 'paper'",
    ),
    *(
      (
        '{"sources": {"a": "A"}, "figures": [{"data": "x", "net": "x", '
        f'"method": "x", "source": "a", {value}}}]}}',
        "a figure must have a number in percent under 'error' or the name",
      )
      for value in ('"top1": 70', '"accuracy": "70"')
    ),
  ],
)
def test_wrong_figures_of_papers_are_refused_before_anything_runs(
  content, message, tmp_path, pretending
):
  path = tmp_path / "figures.json"
  path.write_text(content)
  config = dataclasses.replace(small(), published=str(path))
  with pytest.raises(ConfigError, match=f"must be a file like .*{message}"):
    compare.compare(config, tmp_path / "compared")
  assert not list(tmp_path.glob("compared/*/*"))


def test_a_damaged_comparison_is_named(tmp_path):
  for content in ("{", "{}", "[]"):
    (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(ConfigError, match="comparison.json is damaged"):
      results.read(tmp_path)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"methods": ("dml", "nope")}, "'nope' is not a method"),
    ({"methods": ()}, "at least one"),
    ({"seeds": (1, 1)}, "none twice"),
    ({"nets": ("resnet9",)}, "'resnet9' is unknown"),
    ({"methods": ("one",), "kinds": {"one": "replicas"}}, "needs branches"),
    ({"kinds": KINDS | {"nope": "replicas"}}, "'nope' is not a method"),
    ({"options": {"nope": {}}}, "'nope' is not a method"),
    (
      {"options": {"dml": {"temperature": -1.0}}},
      "config.options.dml.temperature=-1.0 must be",
    ),
    ({"options": {"dml": {"warmth": 1}}}, "'dml' has no hyperparameter 'warm"),
    ({"options": {"dml": 3}}, "config.options={'dml': 3} must be a section"),
    ({"options": 3}, "config.options=3 must be a section"),
    ({"seeds": 3}, "config.seeds=3 must be a tuple of whole numbers"),
    ({"seeds": [0]}, r"config.seeds=\[0\] must be a tuple"),
    ({"seeds": None}, "config.seeds=None must be set"),
    ({"seeds": (0.5,)}, r"config.seeds=\(0.5,\) must be a tuple of whole"),
    ({"nets": "resnet8"}, "config.nets='resnet8' must be a tuple of names"),
    ({"methods": "dml"}, "config.methods='dml' must be a tuple of names"),
    ({"grid": {"epochs": 3}}, "config.grid={'epochs': 3} must be a tuple"),
    ({"teacher_net": 3}, "config.teacher_net=3 must be the name"),
    ({"published": 3}, "config.published=3 must be a file"),
    ({"kinds": None}, "config.kinds has no entry for the method"),
    ({"kinds": "replicas"}, "config.kinds='replicas' must be replicas or"),
    ({"grid": 3}, "config.grid=3 must be a tuple of values for every key"),
    ({"published": "nowhere.json"}, "config.published='nowhere.json'"),
  ],
)
def test_wrong_grids_are_refused_before_anything_runs(
  changes, message, tmp_path, pretending
):
  config = dataclasses.replace(small(), **changes)
  with pytest.raises(ConfigError, match=message):
    compare.compare(config, tmp_path)
  assert not pretending[0]


@reads_recipes
def test_recipes_of_runs_and_of_comparisons_are_told_apart(tmp_path, capsys):
  for name, read in (
    ("okddip_digits", cli.read_comparison),
    ("compare_digits", cli.read_recipe),
  ):
    with pytest.raises(ConfigError, match="not a recipe for this"):
      read(["x", f"--config=configs/{name}.py"])
  for args in (["eval", "x", "--config=y"], ["compare", "--config.x=y"]):
    with pytest.raises(SystemExit) as left:
      __main__.main(args)
    assert left.value.code == ConfigError.exit_code
  said = capsys.readouterr().err
  assert "unrecognized arguments: --config=y" in said
  argv = ["x", "--config=configs/compare_digits.py", "--config.seeds=(4,)"]
  config, workdir = cli.read_comparison(argv)
  assert tuple(config.seeds) == (4,)
  # One folder for all grids of a recipe: cells are shared.
  assert workdir == cli.read_comparison(argv[:2])[1]
  argv.append("--config.base.batch_size=32")
  assert workdir != cli.read_comparison(argv)[1]


@pytest.mark.long
def test_students_learn_from_the_teacher_cells(whole):
  workdir, failed = whole
  assert not failed
  for row in ("baseline", "kd_teacher", "kd"):
    for seed in (0, 1):
      cell = workdir / "resnet8" / row / f"seed{seed}"
      assert (cell / "summary.json").exists()
      saved = json.loads((cell / "config.json").read_text())
      teacher = workdir / "resnet8" / "kd_teacher" / f"seed{seed}"
      assert saved["teacher"] == (str(teacher) if row == "kd" else "")
  rows = {row.name: row for row in results.read(workdir)}
  assert rows["kd"].finished == 2 and len(rows["kd"].diversity) == 2
  assert rows["kd"].seconds > 0
  for name in ("table.md", "table.csv", "table.tex"):
    assert (workdir / name).stat().st_size
  assert {path.stem for path in (workdir / "plots").iterdir()} == {
    "accuracy_resnet8",
    "diversity_resnet8",
  }


@pytest.mark.long
@pytest.mark.checklist("G2")
def test_finished_cells_are_left_alone(whole, tmp_path, monkeypatch):
  workdir, _ = whole
  moved = tmp_path / "moved"
  moved.symlink_to(workdir)
  monkeypatch.setattr(train, "train", raising(AssertionError("trained")))
  assert not compare.compare(small(methods=("kd",)), moved)
  other = small(methods=("kd",))
  other = freeze.replace(other, {"base.batch_size": 10})
  tables = (moved / "table.md").read_bytes()
  with pytest.raises(ConfigError, match="config.batch_size: 20 in the run"):
    compare.compare(other, moved)
  assert (moved / "table.md").read_bytes() == tables
  assert not compare.compare(small(methods=("kd",)), moved)


def test_all_cells_need_the_same_data(tmp_path, monkeypatch):
  pictures = tmp_path / "pictures"
  monkeypatch.setattr(train, "_export_and_plot", lambda run: None)
  base = folder_recipe.configured(pictures)
  net = base.peers.net
  config = dataclasses.replace(
    small(methods=("kd",), nets=(net,), teacher_net=net, seeds=(0,)),
    base=dataclasses.replace(base, method=None),
  )
  folder_recipe.add_pictures(pictures, range(6))
  # One with a teacher is on the data of those without.
  assert not compare.compare(config, tmp_path)
  folder_recipe.add_pictures(pictures, [6])
  more = dataclasses.replace(config, seeds=(0, 1))
  failed = compare.compare(more, tmp_path)
  assert len(failed) == 3
  told = failed[f"{net}/baseline/seed1"]
  assert "baseline/seed0 began with" in told and "added" in told


def test_cells_of_one_teacher_need_the_same(tmp_path, monkeypatch):
  asked = {}

  def fake(config, workdir, stop, still_ours, like):
    del stop, still_ours
    name = workdir.relative_to(tmp_path).as_posix()
    asked[name] = like and like.relative_to(tmp_path).as_posix()
    pretend(config, workdir)

  monkeypatch.setattr(train, "train", fake)
  config = small(methods=("kd",))
  config = dataclasses.replace(
    config, grid={"method.temperature": (1.0, 2.0), "data.flip": (True, False)}
  )
  assert not compare.compare(config, tmp_path)
  row = "resnet8/kd,method.temperature={},data.flip={}/seed{}".format
  for flip in (True, False):
    alone = f"resnet8/baseline,data.flip={flip}/seed0"
    assert asked[alone] is None
    for seed in (0, 1):
      assert asked[row(1.0, flip, seed)] == alone
      assert asked[row(2.0, flip, seed)] == row(1.0, flip, seed)


def test_a_failed_cell_does_not_stop_the_rest(tmp_path, pretending):
  ran, events = pretending
  events["resnet8/kd_teacher/seed1"] = raising(NotFiniteError("at 7"))
  config = small(methods=("independent", "kd"))
  failed = compare.compare(config, tmp_path)
  assert failed["resnet8/kd_teacher/seed1"] == "NotFiniteError: at 7"
  assert "its teacher" in failed["resnet8/kd/seed1"]
  assert len(failed) == 2
  assert len(ran) == 7 and "resnet8/kd/seed1" not in ran
  text = (tmp_path / "table.md").read_text()
  assert "Failed: resnet8/kd_teacher/seed1:" in text and "at 7" in text
  assert "| kd | 2 replicas | 1 of 2 |" in text
  ran.clear()
  events.clear()
  assert not compare.compare(config, tmp_path)
  assert ran == ["resnet8/kd_teacher/seed1", "resnet8/kd/seed1"]
  assert "Failed" not in (tmp_path / "table.md").read_text()


@reads_recipes
def test_a_failure_ends_the_command_with_a_code(tmp_path, monkeypatch):
  monkeypatch.setattr(train, "train", raising(RuntimeError("no")))
  with pytest.raises(SystemExit) as left:
    __main__.main(
      [
        "compare",
        f"--config={ROOT}/configs/compare_digits.py:smoke",
        f"--workdir={tmp_path}",
        "--config.base.mesh.data=1",
      ]
    )
  assert left.value.code == 1
  assert "RuntimeError: no" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("when", ["within a run", "between runs"])
def test_a_stopped_comparison_goes_on(tmp_path, pretending, when):
  ran, events = pretending
  config = small(methods=("independent", "okddip"))

  def act():
    if when == "within a run":
      raise Interrupted("Stopped")
    os.kill(os.getpid(), signal.SIGTERM)

  events["resnet8/independent/seed0"] = act
  with pytest.raises(Interrupted):
    compare.compare(config, tmp_path)
  assert ran[-1] == "resnet8/independent/seed0" and len(ran) == 3
  ran.clear()
  events.clear()
  assert not compare.compare(config, tmp_path)
  assert len(ran) == (4 if when == "within a run" else 3)
  assert "resnet8/okddip/seed1" in ran


def test_an_outage_while_a_cell_is_trained_ends_the_worker(
  tmp_path, pretending
):
  ran, events = pretending
  config = small(methods=("independent", "okddip"))
  error = UnreachableError("gs://a cannot be read")
  events["resnet8/independent/seed0"] = raising(error)
  with pytest.raises(UnreachableError):
    compare.compare(config, tmp_path)
  assert ran[-1] == "resnet8/independent/seed0"
  assert not list(tmp_path.rglob(results.ERROR))
  begun = len(ran)
  events.clear()
  assert not compare.compare(config, tmp_path, skip_failed=True)
  assert ran[begun] == ran[begun - 1] and "resnet8/okddip/seed1" in ran


@pytest.fixture
def known(tmp_path):
  """Runs with figures that a person can check."""
  config = small(methods=("independent", "dml", "ffl"))
  compare._remember(config, tmp_path)
  accuracies = {0: (0.90, 0.92), 1: (0.94, 0.94)}
  speeds = {"baseline": 1000.0, "independent": 400.0, "dml": 200.0}
  for cell in grid.cells(config, tmp_path):
    if cell.row != "ffl":
      last, best = accuracies[cell.seed]
      pretend(cell.config, cell.workdir, last, best, speeds[cell.row])
  return tmp_path


def headlines(records, num_members=2):
  """Of one run, from lines of its metrics."""
  evaluations = [(record["step"], of_record(record)) for record in records]
  measure = classification.Task.measures[0]
  return findings.headlines(evaluations, measure, num_members)


def test_rows_hold_means_and_sample_deviations(known):
  rows = {row.name: row for row in results.read(known)}
  dml = rows["dml"]
  # 90 and 94: deviations of 2 from 92, over n - 1 = 1.
  assert dml.headlines["peers_mean", "last"].mean == pytest.approx(92)
  assert dml.headlines["peers_mean", "last"].std == pytest.approx(8**0.5)
  assert str(dml.headlines["deployed", "best"]) == "93.00 ± 1.41"
  assert dml.compared_as == "mean of peers"
  alone, several = relative.times(dml, list(rows.values()))
  assert (alone, several) == (pytest.approx(5), pytest.approx(2))
  one_network = relative.times(rows["baseline"], list(rows.values()))
  assert one_network == (1.0, None)
  assert set(rows["baseline"].headlines) == {
    ("deployed", "last"),
    ("deployed", "best"),
  }
  epochs, values = dml.diversity[0]
  np.testing.assert_allclose(epochs, [0.5, 1])
  np.testing.assert_allclose(values, [0.05, 0.1])
  assert (rows["ffl"].finished, rows["ffl"].seconds) == (0, None)
  assert str(results.spread([3.0])) == "3.00"


@pytest.mark.parametrize(
  "names, expected",
  [
    (["ema/peer_1", "ema/peers_mean", "ema/ensemble", "ema/extra"], "averaged"),
    (["extra"], "live"),
  ],
)
def test_averaged_peers_stand_for_the_group(names, expected):
  live = ["leader", "peer_0", "peer_1", "peers_mean", "ensemble", "extra"]
  record = {"step": 4} | {f"test/{name}/accuracy": 0.5 for name in live}
  record |= {f"test/{n}/accuracy": 0.75 for n in names if n not in live}
  found = headlines([record])
  value = 75.0 if expected == "averaged" else 50.0
  for who in ("peers_mean", "ensemble", "group"):
    assert found[who, "last"] == value
  assert found["deployed", "last"] == 50.0


def test_one_peer_beside_the_leader_or_teacher_has_no_ensemble(tmp_path):
  config = small(methods=("ctkd", "independent", "okddip"))
  compare._remember(config, tmp_path)
  for cell in grid.cells(config, tmp_path):
    pretend(cell.config, cell.workdir)
  for row in results.read(tmp_path):
    several = row.method == "independent"  # all of two, the others one
    assert bool(row.diversity) == several
    for who in ("peers_mean", "ensemble"):
      assert ((who, "last") in row.headlines) == several
  result_tables.write(tmp_path)
  text = (tmp_path / "table.md").read_text()
  line = "| ctkd | 2 branches (resnet8,resnet8) | 2 of 2 | 50.00 ± 0.00 | "
  assert line + "- | - | " in text
  alone = "+0.00 ± 0.00 (>1000)"
  assert f"| ctkd | {alone} | {alone} | - | - | - |" in text
  compare_plots.plot(tmp_path)


def test_validation_data_choose_the_best_epoch():
  records = [
    {
      "step": step,
      "test/leader/accuracy": test,
      "test/peer_0/accuracy": test,
      "validation/leader/accuracy": validation,
    }
    for step, test, validation in ((1, 0.9, 0.5), (2, 0.7, 0.6), (3, 0.6, 0.6))
  ]
  best = headlines(records, num_members=1)["deployed", "best"]
  assert best == pytest.approx(60)


def test_rows_that_have_not_begun_have_the_measure_of_their_data(tmp_path):
  config = small(methods=("independent",), nets=("hourglass4",))
  config = freeze.replace(config, {"base.data.name": "coco_keypoints"})
  compare._remember(config, tmp_path)

  def measures():
    return {row.measure.name for row in results.read(tmp_path)}

  assert measures() == {"pckh"}
  # No figure that is published for this row is of that measure.
  result_tables.write(tmp_path)
  begun, *_ = grid.cells(config, tmp_path)
  pretend(begun.config, begun.workdir)
  (begun.workdir / "summary.json").unlink()
  info = keypoint_info(head_boxes=False, official_sigmas=True)
  about = dataclasses.asdict(info) | {"train_size": 8}
  (begun.workdir / "data.json").write_text(json.dumps(about))
  assert measures() == {"ap"}
  result_tables.write(tmp_path)
  assert "AP on test data in %" in (tmp_path / "table.md").read_text()


def keypoint_info(**of_keypoints):
  known = KeypointInfo(
    pairs=(),
    bones=(),
    sigmas=(0.1,),
    mean_pose=((8.0, 8.0),),
    margin=(1, 1),
    scale=0.2,
    rotation=30.0,
    sigma=1.0,
    **of_keypoints,
  )
  changes = {"class_names": ("nose",), "num_classes": 1, "keypoints": known}
  return dataclasses.replace(toys.INFO, task="keypoints", **changes)


def test_tables_say_what_stands_beside_what(known):
  sources = {
    "sources": {"a": "Paper A", "b": "Paper_B"},
    "figures": [
      {"error": 5.5, "std": 0.25, "source": "a", "method": "dml"},
      {"accuracy": 93.0, "source": "b", "method": "dml", "kind": "replicas"},
      {"accuracy": 1.0, "source": "b", "method": "dml", "kind": "branches"},
    ],
  }
  for figure in sources["figures"]:
    figure |= {"data": "digits", "net": "resnet8"}
  (known / "published.json").write_text(json.dumps(sources))
  result_tables.write(known)
  text = (known / "table.md").read_text()
  line = "| dml | mean of peers | 92.00 ± 2.83 | 93.00 ± 1.41 | "
  assert line + "94.50 ± 0.25 [1]; 93.00 [2] |" in text
  assert "[1] Paper A; given as error." in text
  assert "| baseline | the network | 92.00 ± 2.83 |" in text
  assert "| ffl | 2 replicas | 0 of 2 | - | - | - | - | - | - |" in text
  latex = (known / "table.tex").read_text()
  assert r"94.50 $\pm$ 0.25 [1]; 93.00 [2] \\" in latex
  assert r"Paper\_B" in latex and "Paper_B" not in latex
  odd = formats.latex([formats.Table("a|b", ["<c>"], [["(>1000)"]])])
  assert "{a$|$b}" in odd and "$<$c$>$" in odd and "($>$1000)" in odd
  with (known / "table.csv").open() as file:
    lines = {line["method"]: line for line in csv.DictReader(file)}
  assert float(lines["dml"]["peers_mean_last_mean"]) == 92
  assert float(lines["dml"]["time_vs_independent"]) == 2
  assert lines["dml"]["published"] == "94.50 | 93.00"
  assert lines["ffl"]["deployed_last_mean"] == ""


def test_cells_count_once_they_are_what_the_comparison_asks_for(known):
  config = small(methods=("independent", "dml", "ffl"))
  longer = freeze.replace(config, {"base.extra_epochs": 1})
  compare._remember(longer, known)
  cells = {cell.name: cell for cell in grid.cells(longer, known)}
  pretend(cells["resnet8/dml/seed0"].config, known / "resnet8/dml/seed0")
  # Interrupted in the epochs that were added.
  begun = cells["resnet8/dml/seed1"]
  saved = json.dumps(freeze.as_dict(begun.config))
  (begun.workdir / "config.json").write_text(saved)
  assert not results.is_finished(begun)
  rows = {row.name: row for row in results.read(known)}
  assert {name: row.finished for name, row in rows.items()} == {
    "baseline": 0,
    "independent": 0,
    "dml": 1,
    "ffl": 0,
  }
  text = str(result_tables.read(known))
  assert "resnet8 on digits, 2 epochs: last epoch" in text
  assert "Failed" not in text


def test_cells_of_another_recipe_stand_as_failed(known):
  config = small(methods=("independent", "dml", "ffl"))
  compare._remember(freeze.replace(config, {"base.batch_size": 10}), known)
  dml = {row.name: row for row in results.read(known)}["dml"]
  assert (dml.finished, len(dml.failures)) == (0, 2)
  assert "config.batch_size: 20 in the run" in str(dml.failures)


def test_titles_say_all_that_a_grid_varies(tmp_path):
  config = small(methods=("dml",), grid={"epochs": (1, 2)})
  compare._remember(config, tmp_path)
  table = result_tables.read(tmp_path)[0]
  assert table.title == "resnet8 on digits, 1 and 2 epochs: last epoch"


@reads_recipes
@pytest.mark.parametrize(
  ("flag", "instead"),
  [
    ("--config.base.seed=7", "--config.seeds"),
    ("--config.base.peers.net=resnet20", "--config.nets"),
    ("--config.base.peers.kind", "--config.kinds.METHOD"),
  ],
)
def test_settings_that_every_run_has_its_own_of_are_refused(
  flag, instead, tmp_path
):
  recipe = f"--config={ROOT}/configs/compare_digits.py"
  flags = ["compare", recipe, f"--workdir={tmp_path}", flag]
  if "=" not in flag:
    flags.append("branches")
  with pytest.raises(ConfigError, match=f"change {instead} instead"):
    cli.read_comparison(flags)


def test_a_damaged_summary_is_one_that_is_not_there(known):
  (cell, *_) = grid.cells(small(methods=("dml",)), known)
  assert results.is_finished(cell)
  (cell.workdir / "summary.json").write_text('{"epochs"')
  assert not results.is_finished(cell)
  assert {row.name: row.finished for row in results.read(known)}[cell.row] == 1


def test_a_run_whose_records_are_lost_stands_as_failed(known):
  listed = grid.cells(small(methods=("dml",)), known)
  cell = next(cell for cell in listed if cell.method == "dml")
  (cell.workdir / "metrics.jsonl").unlink()
  row = next(r for r in results.read(known) if r.method == "dml")
  assert row.failures[cell.name] == "its metrics.jsonl has no evaluation."


def test_diversity_of_a_run_that_ended_early_is_at_its_epochs(known):
  config = small(methods=("independent", "dml", "ffl"))
  longer = freeze.replace(config, {"base.epochs": 4})
  compare._remember(longer, known)
  for cell in grid.cells(longer, known):
    pretend(cell.config, cell.workdir)  # ten steps, an epoch
  dml = {row.name: row for row in results.read(known)}["dml"]
  np.testing.assert_allclose(dml.diversity[0][0], [0.5, 1])


def test_diversity_is_that_of_all_seeds_where_all_were_evaluated(known):
  (row,) = (row for row in results.read(known) if row.name == "dml")
  values = [
    (np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.25, 0.125])),
    (np.array([2.0, 3.0, 4.0]), np.array([0.75, 0.375, 0.0])),
  ]
  drawn = compare_plots._diversity([dataclasses.replace(row, diversity=values)])
  (line,) = drawn.axes[0].lines
  np.testing.assert_array_equal(line.get_xydata(), [[2, 0.5], [3, 0.25]])


def test_a_comparison_without_test_data_is_drawn(known):
  for path in known.glob("*/*/seed*/metrics.jsonl"):
    path.write_text(path.read_text().replace('"test/', '"validation/'))
  result_tables.write(known)
  compare_plots.plot(known)


def test_plots_show_every_row_in_its_colour(known):
  compare_plots.plot(known)
  for name, colors in (
    ("accuracy", ("#0072B2", "#E69F00", "#009E73")),
    ("diversity", ("#0072B2", "#E69F00")),
  ):
    path = known / "plots" / f"{name}_resnet8.png"
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    seen = {"#" + bytes(p).hex().upper() for p in np.unique(pixels, axis=0)}
    assert set(colors) <= seen


# Data and the form of their published headline.
FORMS = {
  **dict.fromkeys(("cifar10", "cifar100"), {"accuracy", "error"}),
  "mpii": {"pckh"},
  "coco_keypoints": {"ap"},
}


def test_published_figures_are_whole():
  for figure in PUBLISHED["figures"]:
    assert figure["source"] in PUBLISHED["sources"]
    assert figure["method"] in [*methods.names(), grid.BASELINE]
    assert set(figure["net"].split(",")) <= set(backbones.names())
    forms = set(figure) - {
      *("data", "net", "method", "kind", "std", "source"),
      *("num_peers", "nets"),
    }
    (headline,) = forms & FORMS[figure["data"]]
    assert all(form.startswith(headline[:2]) for form in forms - {"ar"})
    assert all(0 < figure[form] < 100 for form in forms)
    if "nets" in figure:
      assert set(figure["nets"].split(",")) <= set(backbones.names())
  keys = [
    tuple(
      figure.get(k)
      for k in ("data", "net", "method", "num_peers", "nets", "source")
    )
    for figure in PUBLISHED["figures"]
  ]
  assert len(set(keys)) == len(keys)


def test_rows_of_a_table_stand_under_its_networks():
  """The table of MCL-OKD's read-me has every method for every network."""
  nets = {}
  for figure in PUBLISHED["figures"]:
    if figure["source"] == "mcl_okd":
      nets.setdefault(figure["method"], set()).add(figure["net"])
  expected = {"baseline", "dml", "cl_ilr", "one", "okddip", "mcl_okd"}
  assert set(nets) == expected
  assert all(nets[method] == nets["mcl_okd"] for method in expected)
  assert len(nets["mcl_okd"]) == 5


def test_a_leader_at_the_end_is_not_among_the_peers_that_are_alike():
  last = {figure: 0.9 for figure in of_record(EVALUATION)}
  measure = classification.Task.measures[0]

  def count(method, nets="resnet8"):
    config = small(methods=(method,)).base
    config = freeze.replace(config, {"peers.net": nets, "peers.num_peers": 4})
    return len(findings.alike(last, config, methods.make(method), measure))

  assert count("dml") == 4
  assert count("okddip") == count("mcl_okd") == 3
  assert count("dml", "resnet8,resnet8,resnet8,resnet20") == 0


EVALUATION = {"step": 1, "kind": "eval"} | {
  f"test/peer_{i}/accuracy": 0.9 for i in range(4)
}


def test_a_table_says_how_sure_differences_are(known):
  config = small(methods=("independent", "dml", "ffl"))
  for cell in grid.cells(config, known):
    if cell.row == "dml":
      value = {0: 0.92, 1: 0.98}[cell.seed]
      pretend(cell.config, cell.workdir, value, value)
  result_tables.write(known)
  text = (known / "table.md").read_text()
  assert "differences at the last epoch" in text
  # 2 and 4; t(1) 12.706, t(2) 4.303 / 3**0.5, t(3) 3.182 / 2, times 1.414.
  sure = "+3.00 ± 12.71 (4)"
  assert f"| dml | {sure} | {sure} | {sure} | {sure} | - |" in text
  # Without validation data there is no table of them.
  assert "epoch, validation data" not in text


def test_a_difference_over_few_seeds_says_over_how_many(known):
  config = small(methods=("independent", "dml", "ffl"), seeds=(0, 1, 2))
  compare._remember(config, known)
  for cell in grid.cells(config, known):
    if cell.row in ("baseline", "dml") and cell.seed == 2:
      pretend(cell.config, cell.workdir, 0.8, 0.8)
  result_tables.write(known)
  text = (known / "table.md").read_text()
  # Baseline and dml have three seeds, and independent has two.
  (line,) = (x for x in text.splitlines() if x.startswith("| dml | +"))
  assert line.split(" | ")[1:3] == ["+0.00 ± 0.00 (>1000)"] + [
    "+0.00 ± 0.00 of 2 seeds (>1000)"
  ]
  assert "over those seeds that both rows have" in text


@pytest.mark.parametrize("left", ["failed", "begun"])
def test_pictures_show_the_seeds_that_the_tables_show(known, left):
  config = small(methods=("independent", "dml", "ffl"))
  cells = {cell.name: cell for cell in grid.cells(config, known)}
  (cell,) = (c for n, c in cells.items() if n.endswith("dml/seed1"))
  lines = (cell.workdir / "metrics.jsonl").read_text().splitlines()
  # It has been evaluated once, but has no further record.
  (cell.workdir / "metrics.jsonl").write_text(lines[0] + "\n")
  (cell.workdir / "summary.json").unlink()
  if left == "failed":
    (cell.workdir / "error.txt").write_text("NotFiniteError: nan")
  shown = {entry.label: entry for entry in together.entries([known])}
  entry = shown["dml"]
  assert (list(entry.course.runs), entry.planned) == ([0], 2)
  (table,) = together.tables(list(shown.values()))
  rows = {row[0]: row for row in table.rows}
  assert rows["dml"][3:5] == ["1 of 2", "90.00"]
  assert rows["baseline"][3:5] == ["2", "92.00 ± 2.83"]
  # Without a finished run, those that have been evaluated are shown.
  (other,) = (c for n, c in cells.items() if n.endswith("dml/seed0"))
  (other.workdir / "summary.json").unlink()
  shown = {entry.label: entry for entry in together.entries([known])}
  assert list(shown["dml"].course.runs) == [0, 1]
