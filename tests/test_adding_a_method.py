"""docs/adding_a_method.md does what it says, in a copy of the repository."""

import importlib
import json
import os
from pathlib import Path
import re
import resource
import shutil
import subprocess
import sys

import pytest

from okd_jax import testing
from okd_jax.cli import new_method
from okd_jax.errors import ConfigError

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "adding_a_method.md").read_text()
INSIDE, OUTSIDE = PAGE.split("## In a folder of your own")
COPIED = ("okd_jax", "configs", "docs", "examples", "scripts", "tests")
FILES = ("README.md", "main.py", "mkdocs.yml", "pyproject.toml")


@pytest.fixture
def copy(tmp_path):
  """A copy of the repository; what is written into it is not ours."""
  root = tmp_path / "copy"
  skipped = shutil.ignore_patterns("__pycache__")
  for name in COPIED:
    shutil.copytree(ROOT / name, root / name, ignore=skipped)
  for name in FILES:
    shutil.copy(ROOT / name, root / name)
  return root


def contents(root):
  return {
    str(path.relative_to(root)): path.read_bytes()
    for folder in COPIED
    for path in (root / folder).rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
  } | {name: (root / name).read_bytes() for name in FILES}


def follow(page, root):
  """Writes the files of a page and runs its commands, in order."""
  steps = re.findall(
    r"(?:Change `([\w/.]+)`:\n\n)?```(python)?\n(.*?)```", page, re.DOTALL
  )
  for path, language, text in steps:
    if language:
      (root / path).write_text(text)
      continue
    for command in text.splitlines():
      shell(command, root)


def shell(command, root):
  """Runs one line as a reader would, by this Python."""
  command = re.sub(r"\bpython\b", sys.executable, command, count=1)
  environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1")
  environment.pop("XLA_FLAGS", None)
  environment.pop("PYTHONPATH", None)
  done = subprocess.run(
    command, shell=True, cwd=root, env=environment, text=True,
    capture_output=True, timeout=600,
  )  # fmt: skip
  assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
  return done.stdout


def named_files():
  return set(re.findall(r"^\| `([\w/.]+)` \|", INSIDE, re.MULTILINE))


def lint(root, *paths):
  for command in ("check --quiet", "format --check --quiet"):
    shell(f"python -m ruff {command} {' '.join(paths)}", root)


@pytest.mark.long
def test_the_method_of_the_page_passes_all_checks(tmp_path, monkeypatch):
  code = re.search(
    r"`okd_jax/methods/weighted_mean.py`:\n\n```python\n(.*?)```",
    PAGE,
    re.DOTALL,
  )
  (tmp_path / "page_mean.py").write_text(code[1])
  monkeypatch.syspath_prepend(tmp_path)
  testing.check_method(importlib.import_module("page_mean").Method)


@pytest.mark.long
def test_new_methods_touch_the_files_that_the_page_names(copy):
  before = contents(copy)
  shell("python -m okd_jax new-method weighted_mean", copy)
  shell("python -m scripts.settings_page", copy)
  after = contents(copy)
  touched = {p for p in after if before.get(p) != after[p]}
  assert touched == named_files()
  lint(copy, *(path for path in touched if path.endswith(".py")))
  page = (copy / "docs" / "methods" / "weighted_mean.md").read_text()
  assert "$\\mathrm{CE}(z_i)$" in page
  shell("python -m pytest -q tests/test_docs.py -k 'method or names'", copy)


@pytest.mark.long
def test_new_methods_outside_pass_their_own_test_of_terms(tmp_path):
  lab = tmp_path / "lab"
  made = new_method.write("my_mean", lab)
  assert {p.name for p in made} == {
    "my_mean.py", "my_mean_digits.py", "test_my_mean.py"
  }  # fmt: skip
  # Names of what the test itself uses.
  for name in ("batch", "core", "method"):
    new_method.write(name, lab)
  lint(lab, "--config", str(ROOT / "pyproject.toml"), ".")
  command = f"python -m pytest -q {lab} -k terms"
  assert "4 passed" in shell(command, ROOT)


@pytest.mark.parametrize("to", ["../lab", "lab", "."])
def test_the_recipe_names_itself_by_the_folder_that_was_given(
  to, tmp_path, monkeypatch
):
  here = tmp_path / "here"
  here.mkdir()
  monkeypatch.chdir(here)
  recipe = new_method.write("mine", Path(to))[1].read_text()
  (path,) = re.findall(r"python main.py --config=(\S+)", recipe)
  assert Path(path).resolve() == (here / to / "mine_digits.py").resolve()


@pytest.mark.parametrize(
  "name", ["dml", "Mean", "a-b", "class", "1st", "", "jax"]
)
def test_names_that_will_not_do_are_refused(name, tmp_path):
  with pytest.raises(ConfigError, match="choose another|name the method"):
    new_method.write(name, tmp_path)
  assert not list(tmp_path.iterdir())


def test_files_that_are_there_stay(tmp_path):
  (tmp_path / "test_mine.py").write_text("mine")
  with pytest.raises(ConfigError, match="is there already"):
    new_method.write("mine", tmp_path)
  assert (tmp_path / "test_mine.py").read_text() == "mine"
  assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_leaves_no_half_of_a_file(tmp_path):
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
  try:
    with pytest.raises(OSError, match="too large"):
      new_method.write("mine", tmp_path)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_page_works_inside(copy):
  before = contents(copy)
  follow(INSIDE, copy)
  after = contents(copy)
  assert {p for p in after if before.get(p) != after[p]} == named_files()
  lint(copy, *(path for path in named_files() if path.endswith(".py")))
  shell("python -m mypy okd_jax/methods/weighted_mean.py", copy)
  (run,) = (copy / "runs").iterdir()
  assert json.loads((run / "config.json").read_text())["method"]["name"] == (
    "weighted_mean"
  )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_page_works_outside(copy):
  before = contents(copy)
  follow(OUTSIDE, copy)
  assert contents(copy) == before
  lab = copy.parent / "lab"
  other = json.loads((lab / "other" / "config.json").read_text())
  assert other["method"]["temperature"] == 2.0
  # The same command restores the run and finds nothing left to do.
  again = re.search(r"^python main.py.*$", OUTSIDE, re.MULTILINE)[0]
  shell(again, copy)
