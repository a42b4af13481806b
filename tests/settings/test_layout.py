"""How a run is laid out on devices; the tests have eight virtual ones."""

import types

import pytest

from configs import okddip_digits
from okd_jax.devices import host
from okd_jax.errors import ConfigError
from okd_jax.settings import freeze, layout


def configured(data=-1, peer=-1, words="", **changes):
  config = okddip_digits.get_config(words)
  config.mesh.data, config.mesh.peer = data, peer
  config.update(changes)
  return freeze.freeze(config)


@pytest.mark.parametrize(
  ("num_peers", "cores", "expected"),
  [(4, 1, 1), (4, 2, 2), (4, 3, 4), (3, 2, 3), (6, 4, 6), (4, 64, 4)],
)
def test_a_cpu_is_split_evenly_among_the_peers(
  monkeypatch, num_peers, cores, expected
):
  monkeypatch.setattr(host, "cores", lambda: cores)
  config = freeze.replace(configured(), {"peers.num_peers": num_peers})
  assert layout.cpu_devices(config) == expected


@pytest.mark.parametrize(("batch_size", "expected"), [(64, 2), (63, 1)])
def test_a_cpu_is_split_evenly_among_the_images_of_branches(
  monkeypatch, batch_size, expected
):
  monkeypatch.setattr(host, "cores", lambda: 2)
  config = configured(words="branches", batch_size=batch_size)
  assert layout.cpu_devices(config) == expected


@pytest.mark.parametrize(
  ("data", "peer", "expected"),
  [(1, -1, 1), (2, -1, 2), (-1, 2, 2), (2, 2, 4), (65, 1, 1), (-2, 0, 1)],
)
def test_a_cpu_is_split_as_a_mesh_of_the_users_own_asks(data, peer, expected):
  assert layout.cpu_devices(configured(data, peer)) == expected


@pytest.mark.parametrize("num_peers", [-1, 0, 2**61 - 1])
def test_a_wrong_number_of_peers_is_left_to_the_check(num_peers):
  config = freeze.replace(configured(), {"peers.num_peers": num_peers})
  assert layout.cpu_devices(config) == 1


@pytest.mark.parametrize(
  ("config", "expected"),
  [
    (configured(), {"data": 2, "peer": 4}),
    (configured(batch_size=63), {"data": 1, "peer": 4}),
    (configured(words="branches"), {"data": 8, "peer": 1}),
    (configured(data=2), {"data": 2, "peer": 1}),
    (configured(peer=2), {"data": 4, "peer": 2}),
    (configured(data=2, peer=2), {"data": 2, "peer": 2}),
  ],
)
def test_the_mesh_follows_what_is_asked_for(config, expected):
  assert dict(layout.mesh(config).shape) == expected


@pytest.mark.parametrize(
  ("num_peers", "devices", "expected"),
  [(4, 1, 1), (4, 4, 4), (4, 8, 4), (4, 6, 2), (3, 8, 1), (6, 4, 2), (1, 8, 1)],
)
def test_accelerators_have_a_peer_each_where_they_divide(
  num_peers, devices, expected
):
  config = freeze.replace(configured(), {"peers.num_peers": num_peers})
  assert layout.peers_apart(config, devices) == expected
  branches = freeze.replace(
    configured(words="branches"), {"peers.num_peers": num_peers}
  )
  assert layout.peers_apart(branches, devices) == 1


@pytest.mark.parametrize(
  ("local", "expected"),
  [(8, {"data": 2, "peer": 4}), (1, {"data": 8, "peer": 1})],
)
def test_peers_stay_with_the_accelerators_of_a_process(
  monkeypatch, local, expected
):
  made = [types.SimpleNamespace(platform="tpu")] * 8
  there = types.SimpleNamespace(
    devices=lambda: made, local_device_count=lambda: local
  )
  monkeypatch.setattr(layout, "jax", there)
  assert dict(layout.mesh(configured()).shape) == expected


def test_a_batch_that_does_not_divide_is_refused():
  with pytest.raises(ConfigError, match="batch_size=63"):
    layout.mesh(configured(data=2, batch_size=63))
