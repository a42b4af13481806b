"""Comparisons over several values of keys: --grid.KEY."""

import dataclasses
import json
from pathlib import Path
import re

import pytest

from okd_jax.cli import common as cli
from okd_jax.errors import ConfigError
from okd_jax.results import grid, relative, rows as results
from okd_jax.results.share import Share
from okd_jax.settings import freeze

RECIPE = "--config=configs/compare_digits.py:smoke"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
  monkeypatch.chdir(ROOT)


def cells(*flags, workdir=Path("w")):
  config, _ = cli.read_comparison(["compare", RECIPE, *flags])
  made = grid.cells(config, workdir)
  grid.check(config, made)
  return config, made


def test_grids_multiply_and_name_the_rows():
  config, made = cells(
    "--grid.method.temperature=(1,3)",
    "--grid.optim.learning_rate=[0.1,0.05]",
    "--config.methods=('okddip','kd')",
    "--config.seeds=(0,)",
  )
  assert [cell.row for cell in made] == [
    "baseline,optim.learning_rate=0.1",
    "baseline,optim.learning_rate=0.05",
    "okddip,method.temperature=1.0,optim.learning_rate=0.1",
    "okddip,method.temperature=1.0,optim.learning_rate=0.05",
    "okddip,method.temperature=3.0,optim.learning_rate=0.1",
    "okddip,method.temperature=3.0,optim.learning_rate=0.05",
    "kd_teacher,optim.learning_rate=0.1",
    "kd_teacher,optim.learning_rate=0.05",
    "kd,method.temperature=1.0,optim.learning_rate=0.1",
    "kd,method.temperature=1.0,optim.learning_rate=0.05",
    "kd,method.temperature=3.0,optim.learning_rate=0.1",
    "kd,method.temperature=3.0,optim.learning_rate=0.05",
  ]
  for cell in made:
    flat = freeze.flatten(cell.config)
    assert {key: flat[key] for key in cell.values} == cell.values
  students = [cell for cell in made if cell.method == "kd"]
  for cell in students:
    rate = cell.values["optim.learning_rate"]
    teacher = f"kd_teacher,optim.learning_rate={rate}/seed0"
    assert cell.config.teacher.endswith(teacher)
  # What a file holds gives the same cells.
  saved = json.loads(json.dumps(freeze.as_dict(config)))
  assert grid.cells(freeze.freeze_comparison(saved), Path("w")) == made


def test_methods_without_a_key_are_trained_once():
  _, made = cells(
    "--grid.method.temperature=(1,3)",
    "--config.methods=('independent','okddip')",
    "--config.seeds=(0,)",
  )
  assert [cell.row for cell in made] == [
    "baseline",
    "independent",
    "okddip,method.temperature=1.0",
    "okddip,method.temperature=3.0",
  ]


def test_the_ramp_up_follows_the_epochs_of_a_grid():
  _, made = cells("--grid.epochs=(10,300)", "--config.seeds=(0,)")
  ramps = {cell.config.epochs: cell.config.rampup_epochs for cell in made}
  assert ramps == {10: 3, 300: 80}


def row(method, seconds, **values):
  """A row of a table of which only the time counts."""
  fields = dict.fromkeys(f.name for f in dataclasses.fields(results.Row))
  fields |= {"method": method, "seconds": seconds, "values": values}
  return results.Row(**fields | {"kind": "replicas", "num_peers": 2})


def test_rows_are_timed_against_those_of_the_same_values():
  of_interest = row("okddip", 12.0, batch_size=20, temperature=3.0)
  others = [
    row("baseline", 1.0, batch_size=10),
    row("baseline", 2.0, batch_size=20),
    row("independent", 3.0, batch_size=10),
    row("independent", 4.0, batch_size=20),
  ]
  assert relative.times(of_interest, [*others, of_interest]) == (6.0, 3.0)


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    (["--grid.optim.rate=(1,2)"], "there is no key 'optim.rate'"),
    (["--grid.optim.learning_rat=(1,2)"], "did you mean 'optim.learning_rate'"),
    (["--grid.method.temperatur=(1,)"], "'independent' has no hyperparameter"),
    (["--grid.batch_size=()"], "batch_size=() must be values in brackets"),
    (["--grid.batch_size=20"], "batch_size=20 must be values in brackets"),
    (["--grid.batch_size=(20,20)"], "must not hold a value twice"),
    (["--grid.batch_size"], "must be --grid.KEY=VALUES"),
    (["--grid.batch_size=(20,0)"], "config.batch_size=0 must be"),
    (["--grid.seed=(1,2)"], "--grid.seed: change --config.seeds instead"),
    (["--grid.peers.net=('resnet8',)"], "change --config.nets instead"),
    (
      ["--config.methods=('mcl',)", "--grid.data.per_class=(2,5)"],
      "--grid.data.per_class: a comparison sets",
    ),
  ],
)
def test_wrong_grids_are_refused(flags, says):
  with pytest.raises(ConfigError, match=re.escape(says)):
    cells(*flags)


def test_networks_with_a_slash_have_cells_of_their_own(tmp_path):
  _, made = cells(
    "--config.nets=('resnet8@4/5','resnet8@3/5')",
    "--config.methods=('independent','kd')",
    "--config.seeds=(0,)",
    workdir=tmp_path,
  )
  rows = ("baseline", "independent", "kd_teacher", "kd")
  nets = ("resnet8@4/5", "resnet8@3/5")
  names = [f"{net}/{row}/seed0" for net in nets for row in rows]
  assert [cell.name for cell in made] == names
  assert [cell.workdir for cell in made] == [tmp_path / name for name in names]
  for cell in made:
    teacher = f"{cell.net}/kd_teacher/seed0" if cell.method == "kd" else ""
    assert cell.teacher == teacher
    assert cell.config.teacher == (teacher and str(tmp_path / teacher))
  assert list(Share(made)._left) == names
  assert [c.name for c in grid.only(made, "*@3/5/kd/*")] == names[-2:]
  with pytest.raises(ConfigError, match="networks resnet8@4/5, resnet8@3/5;"):
    grid.only(made, "resnet9/*")


def test_what_a_row_needs_follows_its_hyperparameters():
  flags = ["--config.methods=('ctkd',)", "--config.seeds=(0,)"]
  weight = "method.attention_weight"
  _, made = cells(f"--grid.{weight}=(0.0,9.0)", *flags)
  assert {cell.row: cell.teacher for cell in made} == {
    "baseline": "",
    "kd_teacher": "",
    f"ctkd,{weight}=0.0": "",
    f"ctkd,{weight}=9.0": "resnet8/kd_teacher/seed0",
  }
  # The options of a comparison count, too.
  _, made = cells("--config.options.ctkd.attention_weight=0.0", *flags)
  assert [cell.row for cell in made] == ["baseline", "ctkd"]
  _, made = cells(
    "--config.methods=('switokd',)",
    "--grid.method.num_teachers=(1,2)",
    "--config.teacher_net=resnet20",
    "--config.seeds=(0,)",
  )
  peers = [cell.config.peers for cell in made if cell.method == "switokd"]
  assert [each.num_peers for each in peers] == [2, 3]
  assert peers[1].net == "resnet20,resnet20,resnet8"
