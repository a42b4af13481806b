"""Every setting has a type, a rule and a meaning, and the page says so."""

import dataclasses
import hashlib
import json
from pathlib import Path
import runpy
import sys

from ml_collections import ConfigDict
import pytest

from configs import common, okddip_digits
from okd_jax import core, methods, rules
from okd_jax.data.augmentation import Augment
from okd_jax.errors import ConfigError
from okd_jax.settings import config as config_lib
from okd_jax.settings.freeze import (
  as_dict,
  base,
  flatten,
  freeze,
  method_section,
  replace,
)
from okd_jax.settings.schema import Comparison, RunConfig

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "configs").glob("[!_c]*_*.py"))
RECIPES += sorted((ROOT / "configs").glob("cl_ilr_*.py"))
FIXTURES = sorted((ROOT / "tests" / "fixtures").rglob("config.json"))


def sections():
  """Every class with settings, with its fields."""
  found = [("RunConfig", RunConfig), ("Comparison", Comparison)]
  found += [
    (field.name, type(field.default))
    for field in dataclasses.fields(RunConfig)
    if dataclasses.is_dataclass(field.default)
  ]
  described = [(name, kind, dataclasses.fields(kind)) for name, kind in found]
  return described + [
    (name, methods.load(name), methods.fields(name)) for name in methods.names()
  ]


@pytest.mark.parametrize(
  ("name", "kind", "fields"),
  sections(),
  ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_setting_has_a_rule_and_a_meaning(name, kind, fields):
  meanings = rules.meanings(kind)
  for field in fields:
    assert len(meanings.get(field.name, "")) > 5, field.name
    if dataclasses.is_dataclass(field.default) or field.name == "method":
      continue
    rule = rules.of(field)
    assert rule, f"{name}.{field.name} has no rule"
    if name != "Comparison":  # its lists have no default
      assert rule.holds(field.default), field.name
    for value in rule.wrong:
      assert not rule.holds(value), (field.name, value)


def test_a_meaning_is_one_line_of_a_docstring():
  class Described:
    """Something.

    Attributes:
      first: one: and
        more.
      second: two.

    Further text: not a field.
    """

  expected = {"first": "one: and more.", "second": "two."}
  assert rules.meanings(Described) == expected
  assert rules.meanings(type("Bare", (), {})) == {}


def test_the_page_is_what_the_settings_say():
  made = runpy.run_path(str(ROOT / "scripts" / "settings_page.py"))["page"]()
  written = (ROOT / "docs" / "settings.md").read_text()
  assert written == made, "run python -m scripts.settings_page"
  for key in flatten(base()):
    assert f"`config.{key}`" in written, key


def test_a_recipe_without_changes_is_the_schema():
  assert freeze(base()) == RunConfig()
  assert as_dict(freeze(base())) == as_dict(RunConfig())
  # What is left out follows as it does in a recipe.
  assert freeze({"epochs": 30}).rampup_epochs == 8
  assert freeze({"epochs": 30, "rampup_epochs": 2}).rampup_epochs == 2


def test_what_follows_a_changed_value_is_changed_with_it():
  assert replace(RunConfig(), {"epochs": 30}).rampup_epochs == 8
  assert replace(RunConfig(), {"extra_epochs": 30}).rampup_epochs == 80
  both = {"rampup_epochs": 2, "epochs": 30}
  assert replace(RunConfig(), both).rampup_epochs == 2
  own = replace(RunConfig(), {"rampup_epochs": 2})
  assert replace(own, {"epochs": 30}).rampup_epochs == 2
  of_all = replace(Comparison(), {"base.epochs": 30})
  assert of_all.base.rampup_epochs == 8


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"pers": {}}, "config has no key 'pers'; did you mean 'peers'?"),
    (
      {"peers": {"num_peer": 2}},
      "config.peers has no key 'num_peer'; did you mean 'num_peers'?",
    ),
    ({"peers": 3}, "config.peers=3 must be a section"),
    ({"method": "dml"}, "config.method='dml' must be a section"),
    ({"method": {"name": "dml", "rule": "naive"}}, "no hyperparameter 'rule'"),
    ({"seeds_mapping": "auto"}, "config has no key 'seeds_mapping'"),
  ],
)
def test_keys_that_there_are_not_are_named(changes, says):
  with pytest.raises(ConfigError) as error:
    freeze(changes)
  assert says in str(error.value)


def test_a_recipe_that_invents_a_key_is_refused():
  config = okddip_digits.get_config()
  config.peers.nets = "resnet8"
  with pytest.raises(ConfigError, match="config.peers has no key 'nets'"):
    freeze(config)


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"epochs": 1.5}, "config.epochs=1.5 must be a whole number"),
    ({"seed": True}, "config.seed=True must be"),
    ({"deterministic": 1}, "config.deterministic=1 must be True or False"),
    ({"teacher": 3}, "config.teacher=3 must be a path"),
    ({"trackers": "wandb"}, "config.trackers='wandb' must be"),
    ({"optim.drops": 0.5}, "config.optim.drops=0.5 must be"),
    ({"method": None}, "config.method is missing"),
  ],
)
def test_values_of_another_type_are_refused(changes, says):
  config = replace(freeze(okddip_digits.get_config()), changes)
  with pytest.raises(ConfigError) as error:
    config_lib.check(config)
  assert says in str(error.value)


def test_only_typed_configurations_are_checked():
  with pytest.raises(TypeError, match="freeze"):
    config_lib.check(okddip_digits.get_config())


# As the last release had it.
FREE_THEN = {
  *("num_seeds", "seeds_mapping", "epochs", "log_steps", "eval_epochs"),
  *("checkpoint_secs", "trackers", "eval_batch_size", "data.dir"),
  *("data.download", "mesh.data", "mesh.peer", "peers.mapping"),
}
# It did not have these.
ADDED_SINCE = {"data.flip", "data.exif", "data.per_class"}
ADDED_SINCE |= {f"optim.{key}" for key in ("name", "beta1", "beta2")}
ADDED_SINCE |= {"optim.epsilon", "optim.decay_norms", "optim.clip_norm"}
ADDED_SINCE |= {
  f"augment.{field.name}" for field in dataclasses.fields(Augment)
}
ADDED_SINCE |= {"best_by", "deploy", "patience"}
ADDED_SINCE |= {"label_smoothing", "class_weights"}
ADDED_SINCE |= {"accumulate", "ema_decay"}
ADDED_SINCE |= {"schedule.name", "schedule.final"}
ADDED_SINCE |= {"schedule.warmup_epochs", "schedule.warmup_steps"}
ADDED_SINCE |= {"extra_epochs", "init_from_head"}
ADDED_SINCE |= {"data.keypoints.width", "data.keypoints.sigma"}
ADDED_SINCE |= {"data.keypoints.rotation", "data.keypoints.scale"}
ADDED_SINCE |= {"data.keypoints.boxes", "method.attend_to_self"}
ADDED_SINCE |= {"method.clip_weights", "method.linear_scope", "method.ema_bn"}
ADDED_SINCE |= {"method.mask_diagonal", "method.positive"}
ADDED_SINCE |= {"method.stop_gradient_maps", "method.stop_gradient_values"}
ADDED_SINCE |= {"method.guided_factor", "method.adapters"}
# The name is that of a setting which other methods always had.
ADDED_TO_ONE = {("cl_ilr", "method.ce_weight")}


def digest_then(config):
  flat = flatten(config)
  method = method_section(flat["method.name"])
  defaults = flatten(RunConfig(method=method))
  added = ADDED_SINCE | {
    key for name, key in ADDED_TO_ONE if name == flat["method.name"]
  }
  kept = {
    key: value
    for key, value in flat.items()
    if key not in FREE_THEN and not (key in added and value == defaults[key])
  }
  text = json.dumps(kept, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


@pytest.mark.checklist("C4", "G2")
@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.parent.name)
def test_runs_of_earlier_releases_keep_their_hash(path):
  saved = json.loads(path.read_text())
  config = freeze(config_lib.of_today(saved))
  assert config_lib.digest(config) == digest_then(saved)
  config_lib.require_resumable(config, saved)
  # Before there were several seeds.
  saved.pop("num_seeds", None)
  config_lib.require_resumable(config, saved)


@pytest.mark.checklist("C4")
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_keep_their_hash(recipe):
  config = runpy.run_path(str(recipe))["get_config"]()
  assert config_lib.digest(freeze(config)) == digest_then(config)


def test_an_equal_number_of_another_type_is_the_same_run():
  begun = freeze(okddip_digits.get_config())
  begun = replace(begun, {"optim.drops": (0.5, 1), "method.temperature": 3})
  asked = replace(begun, {"optim.drops": (0.5, 1.0), "method.temperature": 3.0})
  saved = json.loads(json.dumps(as_dict(begun)))
  config_lib.require_resumable(asked, saved)
  kept = config_lib.as_begun(asked, saved)
  assert config_lib.digest(kept) == config_lib.digest(begun)


def test_a_whole_number_in_a_recipe_takes_a_fraction_on_a_command_line():
  section = common.method("okddip", temperature=4)
  assert repr(section.temperature) == "4.0"
  assert repr(common.method("switokd", num_teachers=2).num_teachers) == "2"


def test_a_setting_added_later_changes_no_hash():
  @dataclasses.dataclass(frozen=True)
  class Later(RunConfig):
    """A run of a later release."""

    task: str = rules.one_of("labels", "labels", "points", added=True)

  config = freeze(okddip_digits.get_config())
  values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
  later = Later(**values)
  assert config_lib.digest(later) == config_lib.digest(config)
  config_lib.require_resumable(later, as_dict(config))
  other = dataclasses.replace(later, task="points")
  assert config_lib.digest(other) != config_lib.digest(config)
  with pytest.raises(ConfigError, match="config.task: 'labels' in the run"):
    config_lib.require_resumable(other, as_dict(config))


OUTSIDE = '''
"""A method of somebody else."""

from okd_jax import core, losses


class Mine(core.Method):
  """Labels alone.

  Attributes:
    share: of the labels.
  """

  share: float = core.between(0.5, 0, 1)

  def __call__(self, outputs, batch, ctx):
    terms = losses.cross_entropy(outputs.logits, batch.target)
    return core.MethodOutput({"peer_ce": self.share * terms})


class Unwritable(core.Method):
  """A field that no recipe can hold."""

  share: object = None
'''


@pytest.fixture
def outside(tmp_path, monkeypatch):
  (tmp_path / "outside_okd.py").write_text(OUTSIDE)
  monkeypatch.syspath_prepend(tmp_path)
  yield
  sys.modules.pop("outside_okd", None)


def test_a_method_may_come_from_outside(outside):
  config = okddip_digits.get_config("smoke")
  config.method = common.method("outside_okd:Mine", share=0.25)
  assert isinstance(config.method, ConfigDict)
  frozen = freeze(config)
  config_lib.check(frozen)
  method = config_lib.make_method(frozen)
  assert isinstance(method, core.Method) and method.share == 0.25
  assert flatten(frozen)["method.name"] == "outside_okd:Mine"
  wrong = replace(frozen, {"method.share": 2.0})
  with pytest.raises(ConfigError, match="config.method.share=2.0 must be at"):
    config_lib.check(wrong)
  with pytest.raises(ConfigError, match="no hyperparameter 'shares'; did you"):
    common.method("outside_okd:Mine", shares=1.0)


@pytest.mark.parametrize(
  ("name", "says"),
  [
    ("no_such_module:Mine", "must name an importable module"),
    ("outside_okd:Missing", "must name an importable module"),
    ("outside_okd:core", "is no method"),
    ("outside_okd:Unwritable", "its field 'share' must have a default"),
  ],
)
def test_methods_from_outside_that_are_none_are_refused(name, says, outside):
  with pytest.raises(ConfigError, match=says):
    common.method(name)
