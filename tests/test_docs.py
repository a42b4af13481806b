"""The documentation: what its pages name exists, and its programs run."""

import dataclasses
import json
from pathlib import Path
import re
import runpy
import shutil

import matplotlib
import pytest

from configs import common, compare_digits
from okd_jax import __main__, methods, train
from okd_jax.cli import common as cli
from okd_jax.data.keypoints import stickfolk
from okd_jax.settings import schema
from okd_jax.settings.freeze import flatten

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def test_every_method_has_a_page():
  navigation = (ROOT / "mkdocs.yml").read_text()
  overview = (ROOT / "docs" / "methods" / "index.md").read_text()
  for name in methods.names():
    text = (ROOT / "docs" / "methods" / f"{name}.md").read_text()
    assert f"methods/{name}.md" in navigation
    assert f"[{name}]({name}.md)" in overview
    assert f'--8<-- "okd_jax/methods/{name}.py"' in text
    assert "[notation](index.md#notation)" in text


def test_readme_lists_every_method():
  readme = (ROOT / "README.md").read_text()
  table = readme.partition("## Methods")[2].partition("## ")[0]
  linked = re.findall(r"^\| \[`(\w+)`\]\(docs/methods/\1\.md\) \|", table, re.M)
  assert sorted(linked) == methods.names()


def test_pages_draw_their_formulas_without_network():
  text = (ROOT / "mkdocs.yml").read_text()
  scripts = re.findall(r"^  - (.*\.js)$", text, re.MULTILINE)
  assert scripts
  for script in scripts:
    assert (ROOT / "docs" / script).is_file(), script


def test_every_picture_is_on_a_page():
  shown = {
    page.parent.joinpath(path).resolve()
    for page in (ROOT / "README.md", *PAGES)
    for path in re.findall(r"!\[.*?\]\((.*?)\)", page.read_text())
  }
  assert shown == set((ROOT / "docs" / "images").iterdir())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_exists(page, capsys):
  text = page.read_text()
  for path in re.findall(r"(?:configs|examples|scripts)/\w+\.py", text):
    # Those that a reader is to write.
    if not path.startswith("configs/weighted_mean_"):
      assert (ROOT / path).exists(), path
  keys = set(flatten(common.base()))
  keys |= {".".join(key.split(".")[:2]) for key in keys}
  # A comparison's base is such a configuration again.
  compared = flatten(compare_digits.get_config())
  keys |= {".".join(key.split(".")[:2]) for key in compared}
  keys |= {field.name for field in dataclasses.fields(schema.Comparison)}
  keys |= {
    f"method.{option}"
    for name in methods.names()
    for option in methods.options(name)
  }
  sections = {key.split(".")[0] for key in keys}
  for key in re.findall(r"(?<!jax\.)config\.([a-z_]+(?:\.[a-z_0-9]+)?)", text):
    assert key in keys | sections | {"method.name"}, key
  for command in set(re.findall(r"python -m okd_jax ([\w-]+)", text)):
    with pytest.raises(SystemExit) as left:
      __main__.main([command, "--help"])
    assert left.value.code == 0, command
  capsys.readouterr()


@pytest.mark.long
def test_commands_of_recipes_train(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(ROOT)
  for page in (ROOT / "README.md", ROOT / "docs" / "training.md"):
    found = re.findall(
      r"python (main\.py(?:.*\\\n)*.*adamw(?:.*\\\n)*.*)", page.read_text()
    )
    assert len(found) == 1, page
    words = found[0].replace("\\\n", " ").split()
    config, _ = cli.read_recipe(
      words[:1]
      + [
        *(word.replace("_digits.py", "_digits.py:smoke") for word in words[1:]),
        "--config.peers.net=toys:Quick",
        "--config.mesh.data=1",
        "--config.schedule.warmup_epochs=1",
        f"--workdir={tmp_path / page.stem}",
      ]
    )
    _, summary = train.train(config, tmp_path / page.stem)
    assert summary["last"]["step"] == 10
  capsys.readouterr()


@pytest.mark.slow
def test_commands_for_ones_own_keypoints_run(tmp_path, monkeypatch, capsys):
  """In the order of the page, on a few drawn figures and a toy network."""
  page = ROOT / "docs" / "own_keypoints.md"
  commands = re.findall(
    r"^python ((?:.*\\\n)*.*)$", page.read_text(), re.MULTILINE
  )
  assert len(commands) == 6
  monkeypatch.chdir(tmp_path)
  for seed, (split, count) in enumerate({"train": 20, "test": 6}.items()):
    stickfolk.write(tmp_path / "mine", split, "easy", count, seed)
  shutil.copytree("mine/images", "photos")
  shutil.copy("mine/annotations/train.json", "boxes.json")
  for name in Path("photos").glob("test_*"):
    name.unlink()
  for command in commands:
    words = command.replace("\\\n", " ").split()
    words = [word.replace("image_size=64", "image_size=16") for word in words]
    if words[0] != "main.py":
      assert words[:2] == ["-m", "okd_jax"]
      __main__.main(words[2:])
      continue
    recipe = f"--config={ROOT}/configs/okdhp_stickfolk.py"
    assert words[1] == "--config=configs/okdhp_stickfolk.py"
    config, workdir = cli.read_recipe(
      [words[0], f"{recipe}:smoke", *words[2:]]
      + [
        "--config.data.train_examples=0",
        "--config.peers.net=toys:hourglass",
        "--config.mesh.data=1",
      ]
    )
    train.train(config, workdir)
  capsys.readouterr()
  for name in ("sheet.png", "runs/mine/plots/figures.png", "found"):
    assert Path(name).exists(), name
  assert len(json.loads(Path("found.json").read_text())) == 20


def test_losses_work_in_plain_jax():
  ran = runpy.run_path(str(ROOT / "examples" / "losses_in_your_code.py"))
  assert ran["accuracy"] > 0.8


@pytest.mark.long
def test_the_notebook_runs(monkeypatch):
  monkeypatch.setitem(matplotlib.rcParams, "backend", "agg")
  notebook = json.loads((ROOT / "examples" / "digits.ipynb").read_text())
  cells = [c["source"] for c in notebook["cells"] if c["cell_type"] == "code"]
  program = "\n".join("".join(cell) for cell in cells)
  # As short as it can be, and on one of the devices.
  for old, new in (
    ("get_config()", "get_config('smoke')"),
    ("config.log_steps = 10", "config.mesh.data = 1"),
  ):
    assert old in program
    program = program.replace(old, new)
  space = {}
  exec(program, space)
  assert 0 <= space["right"] <= 1
