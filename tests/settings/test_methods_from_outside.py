"""Methods that lie outside the package, in recipes and flags."""

import sys

import pytest

from okd_jax import methods
from okd_jax.cli import common as cli
from okd_jax.errors import ConfigError
from okd_jax.settings import config as config_lib

METHOD = """
from okd_jax import core


class Own(core.Method):
  temperature: float = core.positive(3.0)
  sharp: bool = core.flag(False)
"""
RECIPE = """
from configs import common


def get_config(words=""):
  config = common.digits(common.base())
  config.method = common.method("lab_method:Own", sharp=True)
  return common.variant(config, words)
"""
OWN = "--config.method.name=lab_method:Own"
OKDDIP = "--config=configs/okddip_digits.py:smoke"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
  """A recipe in a folder that nobody put on the path, and its method."""
  folder = tmp_path_factory.mktemp("lab")
  (folder / "lab_method.py").write_text(METHOD)
  (folder / "lab_recipe.py").write_text(RECIPE)
  before = list(sys.path)
  yield folder / "lab_recipe.py"
  sys.path[:] = before
  sys.modules.pop("lab_method", None)


def read(*arguments):
  # Loading anew would keep what the last recipe has defined.
  sys.modules.pop("config_config", None)
  return cli.read_recipe(["main.py", *arguments])[0]


@pytest.mark.parametrize(
  "form",
  ["--config={}", "--config={}:smoke", "--config {}", "-config {}:smoke"],
)
def test_a_method_may_lie_beside_its_recipe(recipe, form, monkeypatch):
  folder = str(recipe.parent)
  monkeypatch.setattr(sys, "path", [p for p in sys.path if p != folder])
  monkeypatch.delitem(sys.modules, "lab_method", raising=False)
  words = form.format(recipe).split(" ")
  config = read(*words, "--config.method.temperature=5")
  method = config_lib.make_method(config)
  assert type(method).__name__ == "Own"
  assert (method.temperature, method.sharp) == (5.0, True)


def test_any_recipe_can_train_a_method_from_outside(recipe):
  read(f"--config={recipe}")
  config = read(OKDDIP, "--config.method.temperature=2", OWN)
  assert methods.fields(config.method.name)
  assert (config.method.temperature, config.method.sharp) == (2.0, False)
  assert config.data.train_examples == 100  # of the recipe


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    ([OWN, "--config.method.temprature=2"], "'temperature'"),
    ([OWN, "--config.method.aggregate=2"], "no hyperparameter 'aggregate'"),
    ([OWN, "--config.method.temperature=warm"], "must be a number"),
    (["--config.method.name=lab_method:Nobody"], "no attribute 'Nobody'"),
    (["--config.method.name=nowhere_at_all:Own"], "No module named"),
    (["--config.method.name=json:JSONDecoder"], "is no method"),
  ],
)
def test_wrong_methods_from_outside_are_refused(recipe, flags, says):
  read(f"--config={recipe}")
  with pytest.raises(ConfigError, match=says):
    read(OKDDIP, *flags)
