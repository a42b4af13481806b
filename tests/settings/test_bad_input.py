"""Bad input ends early, with one message: value, expectation, remedy.

The rule of every key says some values that it refuses; each of them is given
as a flag here, with those that other keys or the data make wrong.
"""

import contextlib
import dataclasses
import functools
import json
import os
from pathlib import Path
import resource
import subprocess
import sys
import time

from flax import linen as nn
from hypothesis import example, given, settings, strategies as st
from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest

from okd_jax import data as okd_data, methods, outside, rules, train
from okd_jax.cli import common as cli
from okd_jax.errors import ConfigError, DataError, RunLockError
from okd_jax.settings import build, config as config_lib
from okd_jax.settings.freeze import as_dict, flatten, freeze
from okd_jax.storage.lock import RunLock

ROOT = Path(__file__).resolve().parents[2]
# The tests' eight virtual devices would split the small batches.
ONE_DEVICE = "--config.mesh.data=1"


@dataclasses.dataclass(frozen=True)
class Case:
  """Values to refuse.

  Attributes:
    values: as written on the command line.
    also: further flags.
    says: what the message holds besides the value; the key by default.
  """

  values: tuple[str, ...]
  also: tuple[str, ...] = ()
  says: str = ""


def case(*values, also=(), says=""):
  return Case(values, also, says)


MISSING = ("--config.data.name=cifar100", "--config.data.download=False")
# What no rule of one value can say.
MORE = {
  "batch_size": case("101"),
  "best_by": case("accuracy", "train/leader/accuracy"),
  "data.dir": case("/nowhere", also=MISSING, says="cifar-100-binary"),
  "data.keypoints.boxes": case("found.json"),
  "data.name": case("", "zzz", "cifar11"),
  "data.per_class": case("7", says="config.data.per_class="),
  "data.train_examples": case("5"),
  "epochs": case("50000000"),
  "image_mean": case("(1, 2)"),
  "image_std": case("(0.1, 0.2, 0.3)"),
  "init_from": case("/nowhere", str(ROOT)),
  "mesh.data": case("9"),
  "mesh.peer": case("9", "8"),
  "method.num_negatives": case("95"),
  "method.name": case("", "OKDDip", "okdip"),
  "peers.net": case("", "resnet9", "json:Net", ":", says="net"),
  "peers.num_peers": case("1"),
  "peers.split": case("4", says="split"),
  "teacher": case("/nowhere"),
  "teacher_net": case("resnet8"),
}
# Branches whose trunks have another width.
UNLIKE = "resnet8,resnet8x4,resnet8,resnet8"
# Of the wrong type; absl parses every other text to the right one.
WRONG_TYPE = {
  bool: ("maybe", "2"),
  int: ("1.5", "many", "", "1e3"),
  float: ("nan", "inf", "-inf", "much", ""),
  str: (),
  tuple: (),
}


def recipe_of(method):
  data = "stickfolk" if method == "okdhp" else "digits"
  return f"--config=configs/{method}_{data}.py:smoke"


def read(*arguments):
  # Loading anew would keep what the last recipe has defined.
  sys.modules.pop("config_config", None)
  return cli.read_recipe(["main.py", *arguments])[0]


@functools.cache
def okddip():
  return read(recipe_of("okddip"))


def keys():
  """Every key of every method, with a method that has it."""
  found = {}
  for method in ["okddip", *methods.names()]:
    for key in flatten(read(recipe_of(method))):
      found.setdefault(key, method)
  return found


KEYS = keys()


def rule_of(config, key):
  """The rule of a key; the name of a method has none of its own."""
  *path, name = key.split(".")
  section = functools.reduce(getattr, path, config)
  return rules.of({f.name: f for f in dataclasses.fields(section)}[name])


@contextlib.contextmanager
def refused(workdir, kind, *parts):
  """Expects one message, quickly, and no work directory."""
  began = time.process_time()
  with pytest.raises(kind) as caught:
    yield
  assert time.process_time() - began < 5
  for part in parts:
    assert part in str(caught.value)
  assert not workdir.exists()


@pytest.fixture(autouse=True)
def never_training(monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(train, "Runner", lambda *_: pytest.fail("accepted"))


@pytest.mark.checklist("G1")
def test_every_key_can_be_given_as_a_flag():
  for key in KEYS:
    name = key.rpartition(".")[2]
    assert not hasattr(ConfigDict, name), f"{key}: flags would find a method"


@pytest.mark.checklist("G1")
@pytest.mark.parametrize("key", sorted(KEYS))
def test_wrong_values_of_a_key_are_refused(key, tmp_path):
  method, more = KEYS[key], MORE.get(key, case())
  config = read(recipe_of(method))
  rule, default = rule_of(config, key), flatten(config)[key]
  ruled = tuple(map(str, rule.wrong)) if rule else ()
  values = (*ruled, *more.values, *WRONG_TYPE[type(default)])
  assert values
  workdir = tmp_path / "run"
  for value in values:
    flags = (ONE_DEVICE, *more.also, f"--config.{key}={value}")
    says = more.says or f"config.{key}="
    with refused(workdir, (ConfigError, DataError), value, says):
      train.train(read(recipe_of(method), *flags), workdir)


@pytest.mark.checklist("G1")
@pytest.mark.parametrize(
  "method, name, task",
  [
    ("okddip", "stickfolk/easy", "classification"),
    ("okdhp", "digits", "keypoints"),
  ],
)
def test_data_for_another_task_are_refused_before_they_are_read(
  method, name, task
):
  config = read(recipe_of(method), f"--config.data.name={name}")
  with pytest.raises(ConfigError, match=f"'{method}' is for the task '{task}'"):
    config_lib.check(config)


@pytest.mark.checklist("G1")
@pytest.mark.parametrize("key", sorted(KEYS))
def test_a_key_without_a_value_is_refused(key):
  config = ConfigDict(as_dict(read(recipe_of(KEYS[key]))))
  config.update_from_flattened_dict({key: None})
  with pytest.raises(ConfigError) as error:
    config_lib.check(freeze(config))
  assert f"config.{key}=None" in str(error.value)


@pytest.mark.parametrize(
  "key", ["batch_size", "mesh.data", "peers.net", "peers.num_peers"]
)
def test_none_is_refused_before_devices_are_counted(key, tmp_path):
  recipe = tmp_path / "somebody.py"
  recipe.write_text(
    "from configs import okddip_digits\n\n\ndef get_config():\n"
    "  config = okddip_digits.get_config('branches')\n"
    f"  config.{key} = None\n  return config\n"
  )
  with pytest.raises(ConfigError, match=f"config.{key}=None must be set"):
    cli.prepare_jax(read(f"--config={recipe}"))


ONE_OF_SWITOKD = (
  "--config=configs/switokd_digits.py:smoke",
  "--config.peers.net=resnet8",
)


@pytest.mark.checklist("G1")
@pytest.mark.parametrize(
  ("flags", "says"),
  [
    (
      ["--config.peers.num_peer=3"],
      "config.peers has no key 'num_peer'; did you mean 'num_peers'?",
    ),
    (["--config.optim.lr=0.1"], "config.optim has no key 'lr'. See docs"),
    (["--config.sed=1"], "config has no key 'sed'; did you mean 'seed'?"),
    (["--config.method.temprature=1"], "did you mean 'temperature'?"),
    (["--config.seed.a=1"], "config.seed is one value; it has no key 'a'"),
    (["--config.peers=3"], "config.peers is a section; change one of its keys"),
    (["--config.learning_rate=1"], "did you mean 'config.optim.learning_rate'"),
    (["--confg.seed=3"], "confg"),
    (["--workdri=x"], "workdir"),
    (["seed=3"], "--config.key=value"),
    (["--config=configs/nothing.py"], "configs/"),
    (["--config=configs"], "configs"),
    (["--config=configs/common.py"], "get_config"),
    ([recipe_of("dml"), recipe_of("okddip"), "--config.seed=3"], "given twice"),
    (["--config=configs/compare_digits.py"], "compare"),
    (["--config=okd_jax/errors.py"], "get_config"),
    (["--config=README.md"], "README.md, line"),
    (["--config=configs/okddip_digits.py:resnet9"], "resnet9"),
    (["--config=configs/okddip_digits.py:Smoke"], "Smoke"),
    (["--config.method.name=dml"], "no hyperparameter 'aggregate'"),
    (["--config.method.name=ffl"], "ffl"),
    (["--config.data.source=tfds"], "digits"),
    (["--config.data.name=folder:"], "must go on with the path"),
    (["--config.data.name=keypoints:"], "must go on with the path"),
    (["--config.peers.net=resnet8,resnet20"], "names 2 networks"),
    (["--config.peers.net=vgg16"], "too small"),
    (["--config.peers.net=resnet8@half"], "in a fraction such as resnet8@4/5"),
    (["--config.peers.net=resnet8@1/17"], "tail_width=1/17 must be"),
    (["--config=configs/oem_digits.py:vgg8"], "vgg8' cannot be made narrower"),
    (
      ["--config.peers.kind=branches", f"--config.peers.net={UNLIKE}"],
      "the trunk of peer 1",
    ),
    (["--config.peers.dropout=0.5"], "dropout"),
    (["--config.mesh.data=8"], "batch_size=20"),
    (["--config.mesh.peer=3"], "num_peers=4"),
    (["--config.teacher=configs"], "has no teacher"),
    (["--config.data.validation=0.99"], "train_examples=100"),
    (
      ["--config.data.per_class=2", "--config.accumulate=4"],
      "config.accumulate=4 must divide the 10 draws",
    ),
    ([*ONE_OF_SWITOKD, "--config.peers.num_peers=1"], "needs at least 2 peers"),
    ([*ONE_OF_SWITOKD, "--config.method.num_teachers=2"], "needs at least 3"),
    ([*ONE_OF_SWITOKD, "--config.peers.kind=branches"], "needs replicas"),
  ],
)
def test_mistakes_beyond_one_value_are_refused(flags, says, tmp_path):
  workdir = tmp_path / "run"
  if not flags[0].startswith("--config="):
    flags = [recipe_of("okddip"), ONE_DEVICE, *flags]
  with refused(workdir, ConfigError, says):
    train.train(read(*flags), workdir)


@pytest.mark.parametrize(
  "recipe, words, meant",
  [
    ("okddip", "branch", "branches"),
    ("okddip", "resnet110,replica", "replicas"),
    ("ctkd", "resnet21", "resnet"),
    ("switokd", "2s1t", "first lines"),
  ],
)
def test_a_word_behind_the_colon_is_a_variant_or_a_network(
  recipe, words, meant
):
  wrong = words.rpartition(",")[2]
  with pytest.raises(ConfigError) as caught:
    read(f"--config=configs/{recipe}_c100.py:{words}")
  assert f"'{wrong}' behind the colon" in str(caught.value)
  assert meant in str(caught.value)


def test_a_recipe_may_name_any_network_behind_its_colon():
  for word in ("resnet8@4/5", "examples.own_network:Small"):
    config = read(f"--config=configs/okddip_c100.py:{word}")
    assert config.peers.net == word


def network(net, *flags):
  config = read("--config=configs/mcl_okd_digits.py", *flags)
  assert config.peers.split
  config_lib.check(config)
  sizes = {"batch_size": 2, "eval_batch_size": 2}
  info = okd_data.make(config.data, **sizes, seed=0).info
  return build.network(net, config, info, raw_maps=False)


@pytest.mark.parametrize(
  "net", ["examples.own_network:Small", "examples.nnx_network:Small"]
)
def test_networks_without_an_option_are_told_what_asks_for_it(net):
  assert network(net, "--config.peers.kind=replicas")
  remedy = "set config.peers.split=0 and config.precision=float32"
  with pytest.raises(ConfigError, match=remedy):
    network(net, "--config.precision=bfloat16")


class Deep(nn.Module):
  """A network that can be split."""

  num_classes: int
  split: int = 1


def test_networks_with_an_option_get_it_whole_too(monkeypatch):
  monkeypatch.setattr(outside, "find", lambda *args: Deep)
  flags = "--config.peers.kind=replicas", "--config.peers.split=2"
  assert network("some:Deep", *flags).split == 2


def test_dropout_of_vgg_is_that_of_its_branches():
  """Chen et al. have it in OKDDip, ONE, CL-ILR and Ind."""
  for name in ("okddip", "one", "cl_ilr", "independent"):
    recipe = f"--config=configs/{name}_c100.py:vgg16"
    assert read(f"{recipe},branches").peers.dropout == 0.5
  for name in ("okddip", "independent", "dml"):
    recipe = f"--config=configs/{name}_c100.py:vgg16"
    assert read(f"{recipe},replicas").peers.dropout == 0


def test_a_recipe_is_needed():
  for flags in ([], ["--config.epochs=3"]):
    with pytest.raises(ConfigError, match="--config is missing"):
      read(*flags)


@pytest.mark.parametrize("flags", [[], ["--config.epochs=3"]])
@pytest.mark.parametrize(
  "made, kind", [("None", "NoneType"), ("{'epochs': 2}", "dict")]
)
def test_a_recipe_makes_a_configuration(made, kind, flags, tmp_path):
  recipe = tmp_path / "somebody.py"
  recipe.write_text(f"def get_config():\n  return {made}\n")
  with pytest.raises(ConfigError, match=f"a {kind}; it must return the Config"):
    read(f"--config={recipe}", *flags)


@pytest.mark.checklist("G1")
@pytest.mark.parametrize(
  ("flags", "says"),
  [
    ([], "config.teacher=''"),
    (["--config.teacher=README.md"], "README.md"),
    (["--config.teacher=configs"], "configs"),
    (["--config.teacher={file}"], "config.teacher_net=''"),
    (["--config.teacher=configs", "--config.teacher_net=x"], "must be empty"),
    (["--config.teacher={file}", "--config.teacher_net=resnet9"], "resnet9"),
    (["--config.teacher={file}", "--config.teacher_net=resnet8"], "t.pth"),
  ],
)
def test_teachers_that_cannot_teach_are_refused(flags, says, tmp_path):
  (tmp_path / "t.pth").write_bytes(b"")
  flags = [flag.format(file=tmp_path / "t.pth") for flag in flags]
  workdir = tmp_path / "run"
  with refused(workdir, ConfigError, says):
    train.train(read(recipe_of("kd"), ONE_DEVICE, *flags), workdir)


def save(path, mode="RGB", size=(12, 12)):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new(mode, size).save(path)


def one_class(folder):
  save(folder / "cat" / "a.png")


def no_images(folder):
  for name in ("cat", "dog"):
    (folder / name).mkdir(parents=True)


def empty_test_split(folder):
  for name in ("cat", "dog"):
    save(folder / "train" / name / "a.png")
  (folder / "test").mkdir()


def other_classes_in_the_test_split(folder):
  for split, name in (("train", "cat"), ("train", "dog"), ("test", "cat")):
    save(folder / split / name / "a.png")
  save(folder / "test" / "cow" / "a.png")


def the_same_name_in_other_letters(folder):
  for split, name in (("train", "caf\u00e9"), ("test", "cafe\u0301")):
    for each in ("dog", name):
      save(folder / split / each / "a.png")


def damaged(content):
  def write(folder):
    for name in ("cat", "dog"):
      for i in range(20):
        save(folder / name / f"{i}.png")
    file = folder / "dog" / "bad.png"
    file.write_bytes(content(file.with_name("0.png").read_bytes()))

  return write


def cifar(change):
  def write(folder):
    folder.mkdir(parents=True)
    record = np.zeros((10, 3073), np.uint8)
    record[:, 0] = np.arange(10)
    change(record)
    for i in range(1, 6):
      (folder / f"data_batch_{i}.bin").write_bytes(record.tobytes())
    (folder / "test_batch.bin").write_bytes(record.tobytes())

  return write


def label_out_of_range(record):
  record[3, 0] = 10


def a_class_lacks(record):
  record[3, 0] = 4


def no_archive(folder):
  folder.mkdir(parents=True)
  (folder / "cifar-10-binary.tar.gz").write_bytes(b"\x1f\x8b damaged")


FOLDER, FILES = "folder:{}", "cifar10"
NAMED_BY_SET = "1 of its 10 classes: cat"


@pytest.mark.checklist("H1")
@pytest.mark.parametrize(
  ("write", "name", "says"),
  [
    (one_class, FOLDER, "has 1 class folder; at least two"),
    (no_images, FOLDER, "no images in cat, dog;"),
    (empty_test_split, FOLDER, "no class folders"),
    (other_classes_in_the_test_split, FOLDER, "cow, dog in one split only"),
    (
      the_same_name_in_other_letters,
      FOLDER,
      r"('cafe\u0301' and 'caf\xe9' differ in capitals or in how letters",
    ),
    (damaged(lambda whole: b""), FOLDER, "bad.png cannot be decoded"),
    (damaged(lambda whole: whole[:45]), FOLDER, "bad.png cannot be decoded"),
    (damaged(lambda whole: b"a text"), FOLDER, "bad.png cannot be decoded"),
    (Path.mkdir, FOLDER, "no class folders"),
    (Path.touch, FOLDER, "is not a folder"),
    (lambda folder: None, FOLDER, "is not a folder"),
    (cifar(label_out_of_range), FILES, "label 10 in record 3; 0 to 9"),
    (cifar(a_class_lacks), FILES, NAMED_BY_SET),
    (no_archive, FILES, "cifar-10-binary.tar.gz cannot be read"),
  ],
)
def test_bad_data_are_refused(write, name, says, tmp_path):
  folder, workdir = tmp_path / "data", tmp_path / "run"
  write(folder)
  config = read(
    recipe_of("okddip"),
    ONE_DEVICE,
    f"--config.data.name={name.format(folder)}",
    f"--config.data.dir={folder}",
    "--config.data.train_examples=0",
    "--config.data.download=False",
  )
  named = str(folder) if says != NAMED_BY_SET else "cifar10"
  with refused(workdir, DataError, named, says):
    train.train(config, workdir)


def test_too_few_images_of_a_class_are_refused(tmp_path):
  flags = ("--config.data.per_class=2", "--config.data.train_examples=15")
  says = "fewer than config.data.per_class=2; add images"
  with refused(tmp_path / "run", DataError, "1 image(s) of class", says):
    train.train(read(recipe_of("okddip"), ONE_DEVICE, *flags), tmp_path / "run")


def train_in(workdir):
  train.train(read(recipe_of("okddip"), ONE_DEVICE), workdir)


@pytest.mark.checklist("G2")
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe"])
def test_a_damaged_configuration_in_the_workdir_is_named(content, tmp_path):
  path = tmp_path / "config.json"
  path.write_bytes(content)
  with pytest.raises(ConfigError, match="config.json is damaged.*--workdir"):
    train_in(tmp_path)
  assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == content


@pytest.mark.checklist("F1")
def test_a_workdir_that_cannot_be_one_is_named(tmp_path):
  file = tmp_path / "file"
  file.write_text("mine")
  # The second is read-only for everybody, with root's rights too.
  for workdir in (file, file / "run", Path("/proc/self/run")):
    with pytest.raises(
      RunLockError, match="cannot be locked.*--?workdir|other"
    ):
      train_in(workdir)
  assert file.read_text() == "mine"


@pytest.mark.checklist("I2")
def test_a_second_run_in_the_workdir_is_refused(tmp_path):
  with RunLock(tmp_path):
    with pytest.raises(RunLockError, match=f"process id {os.getpid()}"):
      train_in(tmp_path)
  assert not (tmp_path / "config.json").exists()


def main(*arguments):
  """Runs main.py; the code, what it said, and the processor time it took."""
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  done = subprocess.run(
    [sys.executable, "main.py", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=100,
  )
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
  return done.returncode, done.stderr, used


ENDS = [
  (["--config.peers.num_peer=3"], ConfigError.exit_code, "num_peers"),
  (
    ["--config.method.temperature=nan"],
    ConfigError.exit_code,
    "temperature=nan",
  ),
  (
    ["--config.epochs=ten"],
    ConfigError.exit_code,
    "'ten' must be a whole number",
  ),
  (["--config=nowhere.py"], ConfigError.exit_code, "configs/"),
  ([*MISSING, "--config.data.dir=/nowhere"], DataError.exit_code, "/nowhere"),
  (
    ["--config.data.name=folder:deploy"],
    DataError.exit_code,
    "class folders",
  ),
]


@pytest.mark.checklist("G1", "H2")
@pytest.mark.parametrize(
  ("flags", "code", "says"),
  [
    ENDS[0],
    *(pytest.param(*case, marks=pytest.mark.long) for case in ENDS[1:]),
  ],
)
def test_commands_end_early_with_a_code(flags, code, says, tmp_path):
  workdir = tmp_path / "run"
  found, said, used = main(
    recipe_of("okddip"), f"--workdir={workdir}", ONE_DEVICE, *flags
  )
  assert found == code, said
  # Processor time: another program may hold the machine.
  assert used < 5
  assert said.startswith("okd_jax: ") and says in said
  assert "Traceback" not in said
  assert not workdir.exists()


# Text as it is typed: numbers, brackets, quotes, names, paths.
TEXT = st.text(
  st.sampled_from("0123456789.-+e()[]{},'\"=:/ abcnifNT\n\x00é"), max_size=12
)


@pytest.mark.checklist("G1")
@pytest.mark.parametrize(
  ("flag", "words"),
  [
    ("augment.mix_per_peer=True", "nothing is mixed; set config.augment.mixup"),
    ("init_from_head=False", "drawn anew without config.init_from"),
  ],
)
def test_what_would_change_nothing_is_refused(flag, words):
  config = read(recipe_of("independent"), f"--config.{flag}")
  with pytest.raises(ConfigError, match=words):
    config_lib.check(config)


@pytest.mark.checklist("G1")
@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["augment.mixup=1", "augment.mix_per_peer=True"], "see the same mixture"),
    (["data.per_class=3"], "must be a multiple of config.data.per_class=3"),
  ],
)
def test_what_needs_no_data_is_refused_before_any_cell_runs(flags, words):
  config = read(recipe_of("dml"), *(f"--config.{flag}" for flag in flags))
  with pytest.raises(ConfigError, match=words):
    config_lib.check(config)


@settings(max_examples=150, deadline=None)
@given(key=st.sampled_from(sorted(KEYS)) | TEXT, value=TEXT)
def test_fuzzed_flags_are_read_or_refused(key, value):
  if key in ("peers.net", "method.name") and ":" in value:
    return  # names code to import
  flags = recipe_of(KEYS.get(key, "okddip")), f"--config.{key}={value}"
  with contextlib.suppress(ConfigError):
    config_lib.check(read(*flags))


JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
  lambda child: st.lists(child) | st.dictionaries(TEXT, child),
  max_leaves=5,
)


@pytest.mark.checklist("G2")
@settings(max_examples=60, deadline=None)
@given(changes=st.dictionaries(st.sampled_from(sorted(KEYS)) | TEXT, JSON))
@example(changes={"epochs": {}})
def test_fuzzed_saved_configurations_are_compared(changes):
  config = okddip()
  saved = json.loads(json.dumps(as_dict(config)))
  config_lib.require_resumable(config, saved)
  try:
    config_lib.require_resumable(config, saved | changes)
  except ConfigError as error:
    assert "another configuration" in str(error)


@given(JSON.filter(lambda tree: isinstance(tree, dict)))
def test_flattening_keeps_every_leaf(tree):
  def leaves(node):
    inner = [leaves(child) for child in node.values() if type(child) is dict]
    return sum(inner) + sum(type(child) is not dict for child in node.values())

  flat = flatten(tree)
  assert len(flat) <= leaves(tree)
  assert not any(isinstance(value, dict) for value in flat.values())


class Faulty(nn.Module):
  """A network with a fault that has nothing to do with its settings."""

  num_classes: int

  @nn.compact
  def __call__(self, x, *, train):
    raise ValueError("deep inside")


def test_a_fault_deep_inside_is_not_a_wrong_configuration(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(build, "network", lambda *_, **__: Faulty(10))
  config = read(recipe_of("okddip"), ONE_DEVICE)
  # Not turned into a message and a code: it ends with its traceback.
  with pytest.raises(ValueError, match="deep inside") as raised:
    with cli.exit_codes():
      train.train(config, tmp_path / "run")
  assert type(raised.value) is ValueError
  assert not capsys.readouterr().err


def test_devices_that_a_mesh_asks_for_are_there_on_a_cpu(tmp_path):
  program = (
    "import sys; from okd_jax.cli import common as cli\n"
    "from okd_jax.settings import layout\n"
    "config = cli.read_recipe(sys.argv)[0]; cli.prepare_jax(config)\n"
    "print(dict(layout.mesh(config).shape))"
  )
  recipe = recipe_of("okddip"), "--config.mesh.data=4"
  done = subprocess.run(
    [sys.executable, "-c", program, *recipe],
    cwd=ROOT,
    env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
    capture_output=True,
    text=True,
    timeout=100,
  )
  assert done.stdout == "{'data': 4, 'peer': 1}\n", done.stderr
