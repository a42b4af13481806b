"""Users' own networks by name: whole, split, and of different kinds."""

import jax
import numpy as np
import pytest

from configs import okddip_digits
from okd_jax import train
from okd_jax.errors import ConfigError
from okd_jax.runs import run as run_lib
from okd_jax.settings import build, layout
from okd_jax.settings.freeze import freeze
from okd_jax.weights import exported

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
