"""Users' own networks by name: whole, split, and of different kinds."""

import re

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import independent_digits, okddip_digits
from okd_jax import core, groups, train
from okd_jax.devices.mesh import make_mesh
from okd_jax.errors import ConfigError
from okd_jax.runs import run as run_lib
from okd_jax.settings import build, layout
from okd_jax.settings.freeze import freeze
from okd_jax.weights import export, exported

OWN = "examples.own_network:"


def recipe(net, kind="replicas", num_peers=3):
  config = okddip_digits.get_config("smoke")
  config.peers.net = net
  config.peers.kind = kind
  config.peers.num_peers = num_peers
  config.mesh.data = 2
  config.epochs = 1
  return freeze(config)


@pytest.mark.parametrize(
  ("net", "kind"),
  [
    pytest.param(f"{OWN}Small", "replicas", marks=pytest.mark.long),
    (f"{OWN}Branched", "branches"),
    # Auxiliary peers of two widths and a small leader.
    pytest.param(
      f"{OWN}Large,{OWN}Branched,{OWN}Small", "replicas", marks=pytest.mark.long
    ),
  ],
)
def test_trains_and_gives_its_leader_away(net, kind, tmp_path):
  state, summary = train.train(recipe(net, kind), tmp_path)
  assert int(state.step) == 5
  run = run_lib.run(tmp_path)
  network, variables = run.setup.peers.extract(run.peers_variables, run.leader)
  assert type(network).__name__ == net.split(":")[-1]
  images = np.random.default_rng(0).uniform(size=(4, 8, 8, 1))
  normalized = (images - run.info.mean) / run.info.std
  expected = network.apply(variables, normalized, train=False)
  if isinstance(expected, tuple):
    expected = expected[0]
  apply, taken = exported.load_leader(tmp_path / "leader")
  np.testing.assert_allclose(
    apply(taken, images.astype(np.float32)), expected, atol=1e-5
  )
  assert (
    exported.read_card(tmp_path / "leader")["network"] == net.split(",")[-1]
  )


def test_attention_projects_every_width_on_its_own():
  config = recipe(f"{OWN}Large,{OWN}Branched,{OWN}Small")
  mesh = layout.mesh(config)
  source = build.source(config, mesh)
  made = build.setup(config, source.info, source.train_size, mesh)
  from okd_jax.training import state as state_lib

  params = state_lib.init(made, jax.random.key(0)).params["method"]
  shapes = jax.tree.map(lambda x: x.shape, params)
  # An eighth of the narrower peer's 16.
  assert shapes["query_32"]["kernel"] == (32, 2)
  assert shapes["key_16"]["kernel"] == (16, 2)


@pytest.mark.parametrize(
  ("net", "kind", "words"),
  [
    ("examples.own_network:Missing", "replicas", "check the spelling"),
    ("no_such_module:Net", "replicas", "must name an importable module"),
    (f"{OWN}Small", "branches", "has no field 'part'"),
    ("collections:Counter", "replicas", "is neither a linen module nor"),
  ],
)
def test_wrong_names_are_refused(net, kind, words, tmp_path):
  with pytest.raises(ConfigError, match=words):
    train.train(recipe(net, kind), tmp_path)


class Returning(nn.Module):
  """Returns what it is told to."""

  num_classes: int
  what: str = ""

  @nn.compact
  def __call__(self, images, *, train):
    x = images.reshape(images.shape[0], -1)
    logits = nn.Dense(self.num_classes)(x)
    return {
      "list": [logits, x],
      "dict": {"logits": logits},
      "nothing": None,
      "three": (logits, x, x),
      "one": (logits,),
      "integers": jnp.round(logits).astype(jnp.int32),
      "no features": (logits, None),
      "maps": (logits, images),
      "turned": (logits, x.T),
      "Outputs": core.Outputs(logits, None),
      "one map": core.Outputs(logits, x, images),
      "a number": core.Outputs(logits, x, (images, 3)),
      "logits": logits,
    }[self.what]


def assert_refused(group, words):
  """What a network of a group returns is refused where it is applied."""
  images = jnp.zeros((1, 2, 2, 1))
  variables = jax.eval_shape(group.init, jax.random.key(0), images)
  with pytest.raises(groups.GroupError, match=words):
    jax.eval_shape(
      lambda v: group.apply(v, images, jax.random.key(0), train=False),
      variables,
    )


@pytest.mark.parametrize(
  ("what", "words"),
  [
    ("list", r"a list of float32\[1, 5\], float32\[1, 4\]; let it return"),
    ("dict", "a dict; let it return logits"),
    ("nothing", "returned None; let it return"),
    ("three", r"a tuple of float32\[1, 5\], float32\[1, 4\], float32"),
    ("one", r"a tuple of float32\[1, 5\]; let it return"),
    ("integers", r"returned int32\[1, 5\]; let it return logits .* as floats"),
    ("no features", "a tuple of .*, None; let it return"),
    ("maps", r"a tuple of .*, float32\[1, 2, 2, 1\]; let it return"),
    ("turned", r"a tuple of float32\[1, 5\], float32\[4, 1\]; let it return"),
    ("Outputs", "Outputs with logits .*, features None, maps .*; let it"),
    ("one map", r"maps float32\[1, 2, 2, 1\]; .* with a tuple of maps"),
    ("a number", r"maps a tuple of float32\[1, 2, 2, 1\], a int; let it"),
  ],
)
def test_other_outputs_are_refused(what, words):
  group = groups.replicas(Returning(5, what), 2, make_mesh(1, 1))
  assert_refused(group, words)


class Fixed(nn.Module):
  """A network with nothing to train."""

  @nn.compact
  def __call__(self, images, *, train):
    return images.reshape(images.shape[0], -1)


def test_a_network_without_variables_is_refused():
  group = groups.replicas(Fixed(), 2, make_mesh(1, 1))
  with pytest.raises(groups.GroupError, match="Fixed has no variables"):
    group.init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))


def test_networks_for_other_classes_are_no_group():
  nets = [Returning(5, "logits"), Returning(4, "logits")]
  group = groups.mixed(nets, make_mesh(1, 1))
  assert_refused(group, r"logits of one shape, .* has \[5\], \[4\]; make all")


class Skipping(nn.Module):
  """A trunk that returns something else than one array."""

  what: str
  part: str = "whole"

  @nn.compact
  def __call__(self, x, *, train):
    if self.part == "trunk":
      scalar = self.param("scale", nn.initializers.ones, ())
      return {"two": (scalar * x, x), "no batch": scalar}[self.what]
    return nn.Dense(5)(jax.tree.leaves(x)[0].reshape(1, -1))


@pytest.mark.parametrize(
  ("what", "words"),
  [
    (
      "two",
      r"Skipping returned a tuple of float32\[1, 2, 2, 1\], .*concatenate",
    ),
    ("no batch", r"Skipping returned float32\[\]; let it return one array"),
  ],
)
def test_trunks_of_other_outputs_are_refused(what, words):
  group = groups.branches(Skipping(what), 2, make_mesh(1, 1))
  assert_refused(group, words)


class Counting(nn.Module):
  """Takes the size of the batch for a number."""

  num_classes: int

  @nn.compact
  def __call__(self, images, *, train):
    return nn.Dense(self.num_classes)(images.reshape(len(images), -1))


def test_a_network_that_counts_its_batch_is_not_exported(tmp_path, caplog):
  config = independent_digits.get_config("smoke")
  config.peers.net = f"{__name__}:Counting"
  config.peers.num_peers = 1
  config.epochs = 1
  train.train(freeze(config), tmp_path)
  says = r"take sizes from x.shape, not len\(x\)"
  assert re.search(f"leader was not exported: .*{says}", caplog.text)
  with pytest.raises(ConfigError, match=says):
    export.export(run_lib.run(tmp_path), tmp_path / "leader")
  assert not (tmp_path / "leader").exists()
