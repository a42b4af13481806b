"""The form of a group's program is chosen by measurement."""

import dataclasses
import json
from types import SimpleNamespace

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from okd_jax import groups
from okd_jax.devices.mesh import make_mesh
from okd_jax.training import autotune
import toys


class Elsewhere:
  """A recipe's mesh, said to be of another platform."""

  def __init__(self, mesh):
    self.shape = mesh.shape
    self.devices = np.array([SimpleNamespace(platform="gpu")])


@pytest.fixture
def recipe():
  return toys.recipe(data=2, peer=2, mapping="auto")


def on_accelerator(recipe, monkeypatch):
  mesh = Elsewhere(recipe.mesh)
  monkeypatch.setattr(type(recipe), "mesh", mesh)


def test_cpu_unrolls_without_measuring(recipe, tmp_path):
  chosen = autotune.choose_mapping(recipe, tmp_path / "kept")
  assert chosen.peers.mapping == "unroll"
  assert not (tmp_path / "kept").exists()


def test_what_the_user_asks_for_stays():
  asked = toys.recipe(mapping="vmap")
  assert autotune.choose_mapping(asked) is asked


@pytest.mark.parametrize("faster", ["unroll", "vmap"])
def test_the_faster_form_is_chosen_and_kept(
  recipe, monkeypatch, tmp_path, faster
):
  asked = []

  def measure(group, images):
    asked.append((group.num_peers, dict(group.mesh.shape), images.shape))
    return {"unroll": 2.0, "vmap": 2.0} | {faster: 1.0}

  monkeypatch.setattr(autotune, "measure", measure)
  on_accelerator(recipe, monkeypatch)
  for _ in range(2):
    assert autotune.choose_mapping(recipe, tmp_path).peers.mapping == faster
  # What one device of 2 x 2 holds, measured once.
  size = recipe.batch_size // 2
  images = (size, *toys.INFO.image_shape)
  assert asked == [
    (recipe.peers.num_peers // 2, {"data": 1, "peer": 1}, images)
  ]
  (kept,) = tmp_path.iterdir()
  assert json.loads(kept.read_text())[faster] == 1.0


def test_a_cache_that_cannot_be_used_stops_no_run(
  recipe, monkeypatch, tmp_path, caplog
):
  times = {"unroll": 2.0, "vmap": 1.0}
  monkeypatch.setattr(autotune, "measure", lambda *_: times)
  on_accelerator(recipe, monkeypatch)
  autotune.choose_mapping(recipe, tmp_path / "there")
  (kept,) = (tmp_path / "there").iterdir()
  kept.write_text("")
  chosen = autotune.choose_mapping(recipe, kept.parent)
  assert chosen.peers.mapping == "vmap"
  assert json.loads(kept.read_text()) == times
  # A folder that cannot be made.
  chosen = autotune.choose_mapping(recipe, kept / "cache")
  assert chosen.peers.mapping == "vmap" and "were not kept" in caplog.text


def test_another_batch_is_measured_again(recipe, monkeypatch, tmp_path):
  monkeypatch.setattr(
    autotune, "measure", lambda *_: {"unroll": 1.0, "vmap": 2.0}
  )
  on_accelerator(recipe, monkeypatch)
  autotune.choose_mapping(recipe, tmp_path)
  larger = dataclasses.replace(recipe, batch_size=2 * recipe.batch_size)
  autotune.choose_mapping(larger, tmp_path)
  assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
  "kind", quick.only(["branches"], ["replicas", "branches"])
)
def test_both_forms_are_timed(kind):
  group = toys.recipe("independent", kind=kind).peers
  images = jnp.zeros((8, *toys.INFO.image_shape))
  seconds = autotune.measure(group, jax.device_put(images, jax.devices()[0]))
  assert set(seconds) == {"unroll", "vmap"}
  assert all(value > 0 for value in seconds.values())


class Sloped(nn.Module):
  """Differentiates a convolution in its forward pass."""

  @nn.compact
  def __call__(self, x, *, train):
    conv = nn.Conv(4, (3, 3))
    conv(x)
    return jnp.mean(jax.grad(lambda x: jnp.sum(conv(x) ** 2))(x), (1, 2))


def test_a_network_that_cannot_be_mapped_is_unrolled(caplog):
  group = groups.replicas(Sloped(), 2, make_mesh(1))
  seconds = autotune.measure(group, jnp.ones((4, 6, 6, 1)))
  assert seconds["unroll"] < seconds["vmap"] == json.loads("Infinity")
  assert "unrolled, as mapping=vmap fails: Linearization" in caplog.text
