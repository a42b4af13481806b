"""What is exported says the same as the run, without our code."""

import dataclasses
import functools
import json
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import quick

from okd_jax import core
from okd_jax.errors import ConfigError, LeaderError
from okd_jax.runs import run as run_lib
from okd_jax.training import state as state_lib, step as steps
from okd_jax.weights import export, exported, predict
import toys

SIZES = (1, 257)


@pytest.fixture(scope="module")
def run(trained):
  return run_lib.run(trained)


@pytest.fixture(scope="module")
def images(run):
  rng = np.random.default_rng(0)
  shape = (max(SIZES), *run.info.image_shape)
  return rng.integers(0, 256, shape, dtype=np.uint8)


def predictions(run, images):
  """Logits as an evaluation sees them, by the names of an evaluation."""
  batch = core.Batch(
    image=jnp.asarray(images),
    target=jnp.zeros(len(images), jnp.int32),
    index=jnp.arange(len(images)),
    mask=jnp.ones(len(images), bool),
  )
  predict = jax.jit(functools.partial(steps.predict, run.setup))
  found = {}
  kept = {"": run.state, "ema/": run.state.average}
  for prefix, part in kept.items():
    if part is not None:
      logits, named = predict(part.params, part.memory, batch)
      found |= {f"{prefix}peer_{i}": z for i, z in enumerate(logits)}
      found |= {f"{prefix}{name}": z for name, z in named.items()}
  return found


@pytest.fixture(scope="module")
def expected(run, images):
  return predictions(run, images)


# Loads the leader as the docstring of okd_jax.weights.exported shows, then by
# its code.
FRESH = """
import sys
import jax, jax.export, numpy as np, safetensors.numpy
folder, images, results = sys.argv[1:]
weights = safetensors.numpy.load_file(f"{folder}/weights.safetensors")
with open(f"{folder}/model.stablehlo", "rb") as file:
  program = jax.export.deserialize(bytearray(file.read()))
images = np.load(images)
found = {f"plain_{n}": program.call(weights, images[:n]) for n in (1, 257)}
ours = {"okd_jax", "flax"}
assert not ours & {name.split(".")[0] for name in sys.modules}
from okd_jax.weights import exported
apply, variables = exported.load_leader(folder)
found |= {f"loaded_{n}": apply(variables, images[:n]) for n in (1, 257)}
assert "flax" not in sys.modules
np.savez(results, **found)
"""


@pytest.mark.long
@pytest.mark.checklist("K1")
def test_a_fresh_process_gives_the_same_logits(
  expected, images, trained, tmp_path
):
  scaled = images.astype(np.float32) / 255
  np.save(tmp_path / "images.npy", scaled)
  subprocess.run(
    [
      *(sys.executable, "-W", "error", "-c", FRESH, str(trained / "leader")),
      *(str(tmp_path / "images.npy"), str(tmp_path / "results.npz")),
    ],
    check=True,
  )
  found = np.load(tmp_path / "results.npz")
  for size in SIZES:
    for how in ("plain", "loaded"):
      np.testing.assert_allclose(
        found[f"{how}_{size}"], expected["peer_2"][:size], rtol=0, atol=1e-5
      )


def said(page):
  """The packages that a page names to use a leader, and its program."""
  text = (Path(__file__).parents[2] / page).read_text()
  (packages,) = re.findall(r"`pip install (jax safetensors[^`]*)`", text)
  (program,) = re.findall(
    r"```python\n(import pathlib\nimport jax.export.*?)```", text, re.DOTALL
  )
  return packages, program


def test_the_pages_agree_on_what_a_leader_needs():
  assert said("docs/index.md") == said("README.md")


@pytest.mark.slow  # installs packages
@pytest.mark.checklist("K1")
def test_the_readmes_program_needs_what_the_readme_names(
  expected, images, trained, tmp_path
):
  packages, program = said("README.md")
  python = tmp_path / "env" / "bin" / "python"
  subprocess.run(
    [sys.executable, "-m", "venv", str(tmp_path / "env")], check=True
  )
  subprocess.run(
    [str(python), "-m", "pip", "install", "-q", *packages.split()], check=True
  )
  np.save(tmp_path / "images.npy", images.astype(np.float32) / 255)
  shutil.copytree(trained / "leader", tmp_path / "leader")
  whole = (
    "import numpy\nimages = numpy.load('images.npy')\n"
    f"{program}\nnumpy.save('logits.npy', logits)\n"
  )
  # Nothing of this environment: no path, and another folder.
  clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  subprocess.run(
    [str(python), "-c", whole], check=True, cwd=tmp_path, env=clean
  )
  np.testing.assert_allclose(
    np.load(tmp_path / "logits.npy"), expected["peer_2"], rtol=0, atol=1e-5
  )


def test_the_card_tells_what_the_leader_is(trained):
  card = exported.read_card(trained / "leader")
  summary = json.loads((trained / "summary.json").read_text())
  assert card["network"] == "resnet8"
  assert card["classes"] == list("0123456789")
  assert card["num_classes"] == 10
  assert card["image_shape"] == [8, 8, 1]
  assert (card["mean"], card["std"]) == ([0.3048], [0.3757])
  assert card["accuracy"] == {"test": summary["last"]["test/leader/accuracy"]}
  assert card["config_hash"] == summary["config_hash"]
  assert set(card["files"]) == {"model.stablehlo", "weights.safetensors"}


@pytest.mark.parametrize(
  "what", quick.only(["ensemble"], ["peer_0", "ensemble"])
)
def test_others_are_exported_by_name(run, images, expected, tmp_path, what):
  export.export(run, tmp_path / what, what)
  apply, variables = exported.load_leader(tmp_path / what)
  scaled = images.astype(np.float32) / 255
  for size in SIZES:
    np.testing.assert_allclose(
      apply(variables, scaled[:size]), expected[what][:size], rtol=0, atol=1e-5
    )


class Gated(core.Method):
  """A learned mixture of averaged peers."""

  @property
  def needs(self):
    return core.Needs(ema_decay=0.9)

  @nn.compact
  def __call__(self, outputs, batch, ctx):
    gate = nn.Dense(outputs.logits.shape[0], name="gate")(outputs.trunk)
    mixed = jnp.einsum("bp,pbc->bc", gate, outputs.logits)
    return core.MethodOutput(
      {"peer_ce": outputs.logits[..., 0]}, {"gated": mixed}
    )


@pytest.fixture(scope="module")
def gated(run):
  """A run whose averaged variables differ from the live ones."""
  setup = toys.recipe(Gated(), kind="branches", num_peers=2)
  state = state_lib.init(setup, jax.random.key(0))
  params = jax.tree.map(lambda p: p + 0.1, state.params)
  average = dataclasses.replace(state.average, params=params)
  state = dataclasses.replace(state, average=average)
  return dataclasses.replace(run, setup=setup, state=state)


@pytest.mark.long
def test_group_predictions_and_averages(gated, tmp_path):
  shape = (max(SIZES), *gated.info.image_shape)
  images = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
  scaled = images.astype(np.float32) / 255
  expected = predictions(gated, images)
  expected["leader"] = expected["ema/peer_0"]
  for what in ("leader", "gated", "ema/gated", "ema/peer_1"):
    export.export(gated, tmp_path / "it", what)
    apply, variables = exported.load_leader(tmp_path / "it")
    for size in SIZES:
      np.testing.assert_allclose(
        apply(variables, scaled[:size]),
        expected[what][:size],
        rtol=0,
        atol=1e-5,
      )


class Mean(core.Method):
  """A group prediction without variables."""

  def __call__(self, outputs, batch, ctx):
    mean = jnp.mean(outputs.logits, 0)
    return core.MethodOutput(
      {"peer_ce": outputs.logits[..., 0]}, {"mean": mean}
    )


def test_a_group_prediction_without_variables(run, tmp_path):
  setup = toys.recipe(Mean(), num_peers=2, net=toys.Quick())
  state = state_lib.init(setup, jax.random.key(0))
  export.export(
    dataclasses.replace(run, setup=setup, state=state), tmp_path / "it", "mean"
  )
  apply, variables = exported.load_leader(tmp_path / "it")
  images = np.ones((3, *toys.INFO.image_shape), np.float32)
  assert apply(variables, images).shape == (3, 5)


def test_the_saved_model_agrees(run, images, expected, tmp_path):
  import tensorflow as tf

  try:
    export.export(run, tmp_path / "it", form="savedmodel")
  except ConfigError as refusal:
    # A pair of which the older cannot read the newer is told apart at once.
    assert f"TensorFlow {tf.__version__} cannot read" in str(refusal)
    assert jax.__version_info__ >= (0, 11)
    assert not (tmp_path / "it").exists()
    return
  predict = tf.saved_model.load(str(tmp_path / "it")).signatures[
    "serving_default"
  ]
  expected = expected["peer_2"]
  scaled = images.astype(np.float32) / 255
  for size in SIZES:
    logits = predict(images=tf.constant(scaled[:size]))["logits"]
    np.testing.assert_allclose(logits, expected[:size], rtol=0, atol=1e-5)
  with pytest.raises(LeaderError, match="--format=stablehlo"):
    exported.load_leader(tmp_path / "it")


class Odd(nn.Module):
  """Layers that are called as they like, and a parameter in bfloat16."""

  @nn.compact
  def __call__(self, x, *, train):
    del train
    half = self.param("half", nn.initializers.ones, (), jnp.bfloat16)
    hidden = nn.Dense(8, name="a layer~é/1")(x.reshape(x.shape[0], -1))
    return nn.Dense(5)(hidden) * half.astype(x.dtype), hidden


@pytest.mark.parametrize("form", export.FORMATS)
def test_names_and_types_are_those_of_the_user(run, tmp_path, form):
  setup = toys.recipe("independent", num_peers=1, net=Odd())
  state = state_lib.init(setup, jax.random.key(0))
  odd = dataclasses.replace(run, setup=setup, state=state)
  try:
    export.export(odd, tmp_path / "it", form=form)
  except ConfigError as refusal:
    assert "cannot read the programs" in str(refusal)
    pytest.skip("TensorFlow is older than JAX")
  images = np.ones((3, *toys.INFO.image_shape), np.float32)
  if form == "savedmodel":
    import tensorflow as tf

    saved = tf.saved_model.load(str(tmp_path / "it")).signatures
    found = saved["serving_default"](images=tf.constant(images))["logits"]
  else:
    apply, variables = exported.load_leader(tmp_path / "it")
    assert variables["params"]["half"].dtype == jnp.bfloat16
    found = apply(variables, images)
  apply, variables = export.function(odd)
  np.testing.assert_allclose(found, apply(variables, images), rtol=1e-5)


@pytest.mark.parametrize(
  "what, message",
  [
    ("peer_3", "leader, peer_0, peer_1, peer_2, ensemble"),
    ("ema/ensemble", "no averaged variables"),
  ],
)
def test_unknown_names_are_refused(run, tmp_path, what, message):
  with pytest.raises(ConfigError, match=message):
    export.export(run, tmp_path / "it", what)


def test_only_an_export_is_replaced(run, tmp_path):
  export.export(run, tmp_path / "it")
  export.export(run, tmp_path / "it", "peer_0")
  assert exported.read_card(tmp_path / "it")["what"] == "peer_0"
  assert [path.name for path in tmp_path.iterdir()] == ["it"]
  with pytest.raises(ConfigError, match="must be empty or hold an exported"):
    export.export(run, tmp_path)
  (tmp_path / "empty").mkdir()
  export.export(run, tmp_path / "empty")
  assert exported.read_card(tmp_path / "empty")["what"] == "leader"
  (tmp_path / "file").touch()
  with pytest.raises(ConfigError, match="holds something else"):
    export.export(run, tmp_path / "file")


def damage(folder: Path, how: str) -> None:
  weights = folder / exported.WEIGHTS
  if how == "bit":
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
  elif how == "missing":
    weights.unlink()
  elif how == "no card":
    (folder / exported.CARD).unlink()
  else:
    (folder / exported.CARD).write_text("{}")


@pytest.mark.parametrize(
  "how, message",
  [
    ("bit", "does not match the SHA-256"),
    ("missing", "cannot be read"),
    ("no card", "holds no exported network"),
    ("card", "is damaged"),
  ],
)
@pytest.mark.checklist("security")
def test_damage_is_refused(run, tmp_path, how, message):
  export.export(run, tmp_path / "it")
  damage(tmp_path / "it", how)
  with pytest.raises(LeaderError, match=message):
    exported.load_leader(tmp_path / "it")


@pytest.mark.parametrize("name", ["format", "image_shape", "classes"])
def test_a_card_without_an_entry_is_damaged(run, tmp_path, name):
  export.export(run, tmp_path / "it")
  card = json.loads((tmp_path / "it" / exported.CARD).read_text())
  del card[name]
  # A savedmodel is refused by its format.
  card["files"] = {} if name == "format" else card["files"]
  (tmp_path / "it" / exported.CARD).write_text(json.dumps(card))
  Image.new("L", (8, 8)).save(tmp_path / "picture.png")
  with pytest.raises(LeaderError, match=f"damaged .it has no '{name}'"):
    predict.predict(tmp_path / "it", [tmp_path / "picture.png"])
