"""A user's networks are trained, evaluated and exported like ours."""

import jax
import numpy as np
import pytest

from configs import okddip_digits
from okd_jax import config as config_lib, leader, reopen, train


def config_for(net, kind):
  config = okddip_digits.get_config("smoke")
  config.peers.update({"net": net, "kind": kind, "num_peers": 3})
  config.mesh.data = 2
  config.epochs = 1
  return config


@pytest.mark.parametrize(
  "net, kind",
  [
    ("own_networks:Small", "replicas"),
    ("own_networks:Parted", "branches"),
    # The leader, which is last, is small; the peers that teach it are wide.
    ("own_networks:Wide,own_networks:Wide,own_networks:Small", "replicas"),
  ],
  ids=["whole", "split", "different"],
)
def test_own_networks_are_peers(tmp_path, net, kind):
  config = config_for(net, kind)
  train.train(config, tmp_path)
  card = leader.read_card(tmp_path / "leader")
  assert card["network"] == net.split(",")[-1]
  # The leader that was exported is the network of the user, alone.
  run = reopen.run(tmp_path)
  network, variables = run.recipe.peers.extract(run.peers_variables, 2)
  images = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
  scaled = (images - np.float32(card["mean"])) / np.float32(card["std"])
  expected = jax.tree.leaves(network.apply(variables, scaled, train=False))[0]
  apply, exported = leader.load_leader(tmp_path / "leader")
  np.testing.assert_allclose(
    apply(exported, images), expected, rtol=0, atol=1e-5
  )


@pytest.mark.parametrize(
  "net, kind, message",
  [
    ("own_networks:Tiny", "replicas", "must name an importable module"),
    ("nowhere:Net", "replicas", "must name an importable module"),
    ("own_networks:Small", "branches", "has no field 'part'"),
    ("own_networks:Small,own_networks:Wide", "replicas", "names 2 networks"),
  ],
)
def test_what_cannot_be_a_peer_is_refused(tmp_path, net, kind, message):
  with pytest.raises(config_lib.ConfigError, match=message):
    train.train(config_for(net, kind), tmp_path / "run")
  assert not (tmp_path / "run").exists()
