"""The commands of README, as they stand there and in their order."""

from collections.abc import Iterator
import itertools
from pathlib import Path
import re
import shlex
import shutil
import tomllib

import numpy as np
from PIL import Image
import pytest

from okd_jax import __main__, compare, seeds
from okd_jax.cli import common as cli
from okd_jax.results import grid
from okd_jax.settings import config as config_lib

ROOT = Path(__file__).parents[1]
# What a reader has in the folder where the commands are given.
HERE = ("configs", "examples", "main.py")
# Makes a run of anything one of seconds.
SHORT = (
  "--config.peers.net=toys:Toy",
  "--config.schedule.warmup_epochs=0",
  "--config.mesh.data=1",
  "--config.mesh.peer=1",
)
TRAIN = ("python", "main.py")
MODULE = ("python", "-m", "okd_jax")


def commands() -> Iterator[list[str]]:
  """The words of every command of README, without variables before it."""
  text = (ROOT / "README.md").read_text()
  blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
  for language, block in blocks:
    lines = [] if language else block.replace("\\\n", " ").splitlines()
    for line in lines:
      if words := shlex.split(line, comments=True):
        yield [*itertools.dropwhile(lambda word: "=" in word, words)]


@pytest.fixture
def folder(tmp_path_factory):
  """A folder with the parts of the repository and some pictures."""
  folder = tmp_path_factory.mktemp("readme")
  for name in HERE:
    (folder / name).symlink_to(ROOT / name)
  rng = np.random.default_rng(0)
  for path in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
    pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    (folder / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / "photos" / path)
  return folder


def small(words: list[str]) -> list[str]:
  """The arguments of a training command, for a run of seconds."""
  shrunk = []
  for word in words:
    if word.startswith("--config="):
      word += ",smoke" if ":" in word else ":smoke"
    if not word.startswith(("--config.epochs=", "--config.peers.net=")):
      shrunk.append(word)
  return shrunk


def train(words: list[str]) -> None:
  """Trains as main.py does, after JAX was set up."""
  config, workdir = cli.read_recipe([*small(words), *SHORT])
  seeds.train(config, workdir)


def try_out(words: list[str], everything: bool) -> None:
  """Runs a command, or reads what it would train."""
  if (*words[:2],) == TRAIN:
    config, workdir = cli.read_recipe(words[1:])
    config_lib.check(config)
    if everything:
      train(words[1:])
  elif (*words[:3],) == MODULE and words[3] == "compare":
    config, workdir = cli.read_comparison(words[3:])
    grid.check(config, grid.cells(config, workdir))
    if everything:
      config, workdir = cli.read_comparison(small(words[3:]))
      assert not compare.compare(config, workdir)
  elif (*words[:3],) == MODULE:
    if everything or words[-1] not in ("runs/compared", "nets", "doctor"):
      __main__.main(words[3:])
  else:
    check_installed(words)


def check_installed(words: list[str]) -> None:
  """Checks what a command names that would install or measure something."""
  text = " ".join(words)
  if words[0] == "make":
    assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
    return
  for path in re.findall(r"\S+\.(?:txt|py|sh)\b", text):
    assert (ROOT / path).is_file(), text
  extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  for names in re.findall(r"(?<!jax)\[([\w,]+)\]", text):
    assert set(names.split(",")) <= set(extras["optional-dependencies"]), text
  known = ("pip install ", "python -m venv ", ".venv-onnx/bin/")
  assert text.startswith(known), f"nothing runs: {text}"


@pytest.mark.long
@pytest.mark.parametrize(
  "everything",
  [
    False,
    pytest.param(True, marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
  ],
)
def test_commands_in_their_order(
  everything, trained, folder, monkeypatch, capsys
):
  monkeypatch.chdir(folder)
  if not everything:
    for name in ("digits", "teacher"):
      shutil.copytree(trained, folder / "runs" / name)
  found = list(commands())
  assert len(found) > 20
  for number, words in enumerate(found):
    if words not in found[:number]:
      try_out(words, everything)
  assert (folder / "runs" / "digits" / "report.html").exists()
  capsys.readouterr()


def test_ci_leaves_no_default_test_out():
  """Each runs in one of two sets; what `slow` and others mark, in none."""
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())
  options = project["tool"]["pytest"]["ini_options"]
  quick = re.search(r"-m '(.*?)'", options["addopts"])[1]
  makefile = (ROOT / "Makefile").read_text()
  rest = re.search(r'^test-long:.*?-m "(.*?)"', makefile, re.M | re.S)[1]
  names = [marker.split(":")[0] for marker in options["markers"]]
  for long in (False, True):
    marks = dict.fromkeys(names, False) | {"long": long}
    assert eval(quick, {}, marks) + eval(rest, {}, marks) == 1
  steps = (ROOT / ".ci" / "run").read_text().splitlines()
  assert {"make test", "make test-long"} <= set(steps)


def test_every_page_is_linked():
  text = (ROOT / "README.md").read_text()
  for page in (ROOT / "docs").glob("*.md"):
    assert f"(docs/{page.name})" in text, page
  for target in re.findall(r"\]\(([\w./]+)\)", text):
    assert (ROOT / target).exists(), target
