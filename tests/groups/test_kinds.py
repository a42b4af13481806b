"""Every kind of group: trains alike on every mesh, and gives its peers away."""

import contextlib
import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.collectives import collectives
from okd_jax import groups, methods
from okd_jax.backbones.resnet import ResNet
from okd_jax.devices.mesh import make_mesh
from okd_jax.errors import ConfigError
from okd_jax.methods import independent
from okd_jax.training import state as state_lib
import runs
import toys

IMAGES = jax.random.normal(jax.random.key(3), (8, 6, 6, 1))
NET = toys.Toy(5)
WIDE = toys.Toy(5, width=12)
# The trunk of all toys of one width is the same.
OTHER = toys.Toy(5, dropout=0.5)


class Deeper(toys.Toy):
  """A toy whose tail has one more stage, on the trunk of the others."""

  def _stage(self, x, name, width, train):
    x = super()._stage(x, name, width, train)
    if name == "stage2":
      x = super()._stage(x, "stage3", width + 2, train)
    return x


KINDS = {
  "replicas": lambda mesh: groups.replicas(NET, 2, mesh, "vmap"),
  "branches": lambda mesh: groups.branches(NET, 2, mesh, "unroll"),
  "mixed": lambda mesh: groups.mixed((groups.Stack(WIDE, 2), NET), mesh),
  "uneven": lambda mesh: groups.different_branches(
    (NET, WIDE, Deeper(5), OTHER), mesh
  ),
}
MESHES = {
  "replicas": ((1, 1), (2, 2)),
  "branches": ((1, 1), (2, 2)),
  "mixed": ((1, 1), (2, 1)),
  "uneven": ((1, 1), (2, 1)),
}


def recipe(kind, mesh, method="okddip", **changes):
  return recipe_of(KINDS[kind](make_mesh(*mesh)), method, **changes)


def recipe_of(peers, method, **changes):
  asked = methods.make(method).needs.trunk_gradient
  peers = dataclasses.replace(peers, trunk_gradient=asked)
  return toys.recipe(method, peers=peers, **changes)


@pytest.mark.parametrize(
  ("kind", "method"),
  [
    pytest.param("uneven", "pcl", marks=pytest.mark.long),
    pytest.param("mixed", "okddip", marks=pytest.mark.slow),
    pytest.param("mixed", "pcl", marks=pytest.mark.slow),
    pytest.param("uneven", "okddip", marks=pytest.mark.slow),
    pytest.param("uneven", "cl_ilr", marks=pytest.mark.slow),
  ],
)
def test_every_mesh_trains_alike(kind, method):
  # Equal peers are in tests/devices/test_mesh.py and the conformance suite.
  with jax.enable_x64(True):
    one, other = (
      runs.train(recipe(kind, mesh, method, dtype=jnp.float64), 3)
      for mesh in MESHES[kind]
    )
  runs.assert_close(other, one, 1e-9)
  assert np.isfinite(one[1]["gradient_norm"])


@pytest.mark.long
@pytest.mark.parametrize("kind", ["uneven"])
def test_step_gathers_no_activation_maps(kind):
  made = recipe(kind, (4, 1))
  state = runs.start(made)
  step = runs.jitted(made, state).lower(
    state, runs.on_mesh(made, toys.batch(0)), jax.random.key(0), None
  )
  found = collectives(step.compile())
  assert found
  height, width, _ = toys.INFO.image_shape
  for one in found:
    for shape in one.shapes:
      assert (height, width) not in zip(shape, shape[1:], strict=False), one


@pytest.mark.parametrize("name", toys.OF_CLASSES)
def test_peers_of_any_method_may_be_of_different_networks(name):
  needed = methods.make(name).needs.kind
  if needed != "branches":
    made = recipe("mixed", (1, 1), name)
    refused = pytest.raises(ConfigError, match="must be of one height")
    with refused if name == "ffsd" else contextlib.nullcontext():
      state_lib.abstract(made, jax.random.key(0))
  if needed != "replicas":
    branches = groups.different_branches((NET, WIDE, OTHER), make_mesh(1))
    state_lib.abstract(recipe_of(branches, name), jax.random.key(0))


@pytest.mark.parametrize("kind", KINDS)
def test_every_peer_is_a_network_that_stands_alone(kind):
  group = KINDS[kind](make_mesh(1))
  variables = group.init(jax.random.key(0), IMAGES[:1])
  outputs, _ = jax.jit(
    lambda v, x: group.apply(v, x, jax.random.key(1), train=False)
  )(variables, IMAGES)
  # Every peer takes the place of the first one and back again.
  rebuilt = jax.tree.map(np.zeros_like, jax.device_get(variables))
  for peer in range(group.num_peers):
    net, own = group.extract(variables, peer)
    alone = jax.jit(lambda v, x, net=net: net.apply(v, x, train=False))(
      own, IMAGES
    )
    np.testing.assert_allclose(outputs.logits[peer], alone.logits, atol=1e-5)
    shapes = jax.eval_shape(
      lambda key, net=net: net.init(key, IMAGES[:1], train=False),
      jax.random.key(0),
    )
    assert {
      jax.tree_util.keystr(path): leaf.shape
      for path, leaf in jax.tree_util.tree_leaves_with_path(own)
    } == {
      jax.tree_util.keystr(path): leaf.shape
      for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }
    rebuilt = group.insert(rebuilt, peer, own)
  jax.tree.map(np.testing.assert_array_equal, rebuilt, variables)


def test_uneven_branches_share_one_trunk():
  group = KINDS["uneven"](make_mesh(1))
  variables = group.init(jax.random.key(0), IMAGES[:1])
  assert set(variables["params"]) == {"trunk", "tails"}
  outputs, _ = jax.jit(
    lambda v, x: group.apply(v, x, jax.random.key(1), train=True)
  )(variables, IMAGES)
  assert outputs.trunk.shape == (8, 4)
  assert [f.shape[-1] for f in outputs.features] == [8, 12, 10, 8]
  # The trunk of the toy of width 12 is another, so it comes as two parts.
  kinds = [type(group.extract(variables, i)[0]).__name__ for i in range(4)]
  assert kinds == ["Toy", "OnStem", "OnStem", "OnStem"]


def test_tails_of_our_networks_may_differ_in_length():
  nets = [
    ResNet(5, blocks=blocks, widths=(4, 8, 8, 8), inner_widths=None, split=2)
    for blocks in ((1, 1, 1), (1, 1, 1, 1), (1, 1, 2))
  ]
  group = groups.different_branches(nets, make_mesh(1))
  images = jnp.zeros((1, 8, 8, 3))
  outputs = jax.eval_shape(
    lambda key: group.apply(group.init(key, images), images, key, train=True),
    jax.random.key(0),
  )[0]
  assert outputs.logits.shape == (3, 1, 5)
  # Stages are aligned at the deepest one.
  assert [[m.shape[1] for m in stage] for stage in outputs.maps] == [[2, 1, 2]]


def test_owners_are_the_peers_of_every_array():
  group = KINDS["mixed"](make_mesh(1))
  variables = group.init(jax.random.key(0), IMAGES[:1])
  owners = group.owners(variables)["params"]
  assert owners["group_0"]["head"]["kernel"] == range(2)
  assert owners["group_1"]["head"]["kernel"] == range(2, 3)
  branches = KINDS["branches"](make_mesh(1))
  variables = branches.init(jax.random.key(0), IMAGES[:1])
  owners = branches.owners(variables)["params"]
  assert owners["trunk"]["stage1_conv"]["kernel"] == range(0)
  assert owners["tails"]["head"]["kernel"] == range(2)


class InTurn(independent.Method):
  """Peers that know nothing of each other, one after another."""

  def turns(self, num_peers):
    return tuple(range(num_peers))


@pytest.mark.long
def test_different_networks_learn_in_turn():
  group = groups.mixed((NET, WIDE), make_mesh(1))
  at_once, in_turn = (
    runs.train(toys.recipe(method, peers=group), 1)[0]
    for method in (independent.Method(), InTurn())
  )
  runs.assert_close(in_turn.params, at_once.params, 1e-6)
  runs.assert_close(in_turn.memory, at_once.memory, 1e-6)


@pytest.mark.long
@pytest.mark.parametrize(
  ("name", "make"),
  [
    pytest.param(
      "replicas", lambda: toys.recipe("okddip"), marks=pytest.mark.slow
    ),
    pytest.param(
      "branches",
      lambda: toys.recipe("okddip", kind="branches"),
      marks=pytest.mark.slow,
    ),
    ("views", lambda: toys.recipe("pcl", kind="branches")),
    ("mixed", lambda: recipe("mixed", (1, 1), "dml")),
  ],
)
def test_numbers_are_those_of_the_last_release(name, make):
  """Values recorded before the kinds of groups became one class."""
  path = Path(__file__).parent / "last_release.json"
  expected = json.loads(path.read_text())[name]
  made = make()
  start, (state, _) = jax.device_get(runs.start(made)), runs.train(made, 2)
  for moment, tree in (("start", start), ("after", state)):
    found = fingerprint(tree)
    assert found.keys() == expected[moment].keys()
    for leaf, value in found.items():
      np.testing.assert_allclose(
        value, expected[moment][leaf], rtol=1e-5, atol=1e-5, err_msg=leaf
      )


def fingerprint(tree):
  """A number for every array that no other order of its values gives."""
  return {
    jax.tree_util.keystr(path): float(
      np.sum(np.cos(np.arange(leaf.size)) * np.ravel(leaf).astype(np.float64))
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
