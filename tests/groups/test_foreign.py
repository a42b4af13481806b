"""Networks that keep state of their own: what is kept, on every mesh."""

import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from own_networks import Deterministic, Foreign
import pytest
import quick

from okd_jax import groups, layers
from okd_jax.devices.mesh import make_mesh
from okd_jax.settings import build
from okd_jax.weights import exported
import runs
import toys

IMAGES = jax.random.normal(jax.random.key(3), (8, 6, 6, 1))
VIEWS = jnp.stack([IMAGES * (1 + 0.3 * i) + 0.1 * i for i in range(4)])
KEPT = ("mean", "counter", "norm", "dropout", "spectral", "weight", "masked")


def trained(keeps, kind, data, peer, dtype=jnp.float64):
  recipe = toys.recipe(
    "independent",
    kind=kind,
    data=data,
    peer=peer,
    num_peers=2,
    net=Foreign(keeps=keeps),
    dtype=dtype,
  )
  narrow = dataclasses.replace(recipe.task, image_dtype=jnp.float32)
  build.check_networks(dataclasses.replace(recipe, task=narrow))
  return runs.train(recipe, 3)


@pytest.mark.parametrize("keeps", quick.only(["weight"], KEPT))
def test_every_mesh_trains_alike(keeps):
  kind = "branches" if keeps in ("mean", "counter") else "replicas"
  with jax.enable_x64(True):
    one = trained(keeps, kind, 1, 1)
    runs.assert_close(trained(keeps, kind, 2, 2), one, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["replicas", "branches"])
@pytest.mark.parametrize("keeps", KEPT)
def test_every_kind_trains_alike(keeps, kind):
  with jax.enable_x64(True):
    one = trained(keeps, kind, 1, 1)
    for data, peer in ((2, 1), (1, 2), (4, 2)):
      runs.assert_close(trained(keeps, kind, data, peer), one, 1e-9)


@pytest.mark.long
def test_steps_are_counted_for_every_peer():
  state, _ = trained("counter", "replicas", 2, 1, jnp.float32)
  counter = state.memory["peers"]["counter"]["own"]["steps"]
  assert counter.dtype == jnp.int32
  assert counter.tolist() == [3, 3]


def in_turn(group, variables, views):
  """The definition: each view passes the trunk that the one before left."""
  trunk = {name: tree["trunk"] for name, tree in variables.items()}
  state, hidden = trunk, []
  for view in views:
    mutable = [name for name in trunk if name != "params"]
    result, state = group.stem.apply(
      {**trunk, **state}, view, train=True, mutable=mutable
    )
    hidden.append(result)
  return jnp.stack(hidden), state


class OurNorm(nn.Module):
  """A trunk with ours and flax's normalisation, one of them called twice."""

  part: str = "whole"

  @nn.compact
  def __call__(self, x, *, train):
    if self.part != "tail":
      x = nn.Conv(4, (3, 3), name="conv")(x)
      x = layers.BatchNorm(name="ours")(x, use_running_average=not train)
      x = nn.BatchNorm(not train, momentum=0.99, name="flax")(nn.relu(x))
    if self.part == "trunk":
      return x
    return nn.Dense(5, name="last")(jnp.mean(x, (1, 2)))


class Twice(OurNorm):
  """Calls one layer twice, so that its average moves twice a pass."""

  @nn.compact
  def __call__(self, x, *, train):
    if self.part != "tail":
      norm = nn.BatchNorm(not train, momentum=0.8, name="norm")
      x = norm(2 * norm(x) + 1)
    if self.part == "trunk":
      return x
    return nn.Dense(5, name="last")(jnp.mean(x, (1, 2)))


@pytest.mark.parametrize("mapping", ["unroll", "vmap"])
@pytest.mark.parametrize(
  ("net", "shape"),
  [
    (OurNorm(), (1, 1)),
    (OurNorm(), (2, 1)),
    (OurNorm(), (1, 2)),
    pytest.param(Twice(), (2, 1), marks=pytest.mark.long),
    (Foreign(keeps="mean"), (1, 1)),
    (Foreign(keeps="mean"), (2, 1)),
    pytest.param(Foreign(keeps="counter"), (2, 1), marks=pytest.mark.long),
    pytest.param(Foreign(keeps="spectral"), (1, 1), marks=pytest.mark.long),
  ],
)
def test_views_pass_the_trunk_one_after_another(net, shape, mapping):
  group = groups.branches(net, 4, make_mesh(*shape), mapping)
  variables = group.init(jax.random.key(0), IMAGES[:1])
  outputs, after = jax.jit(
    lambda v, x: group.apply(v, x, jax.random.key(1), train=True)
  )(variables, VIEWS)
  hidden, state = in_turn(group, variables, VIEWS)
  np.testing.assert_allclose(outputs.trunk, hidden.mean((2, 3)), atol=1e-5)
  for name, tree in state.items():
    runs.assert_close(after[name]["trunk"], tree, 2e-6)


def test_views_on_several_devices_cannot_queue():
  group = groups.branches(Foreign(keeps="mean"), 2, make_mesh(1, 2))
  groups.check(group, IMAGES[:1])
  with pytest.raises(
    groups.GroupError, match=r"mesh.peer=2 must be 1.*'moving/own/mean'"
  ):
    groups.check(group, IMAGES[:1], has_views=True)


@pytest.mark.parametrize(
  ("keeps", "data", "words"),
  [
    ("largest", 2, "'moving/own/largest' that depend on how the batch"),
    ("own_norm", 2, "outputs of an example depend on the other"),
    ("examples", 2, "'counter/own/examples' that depend on how the batch"),
    ("positives", 1, "'counter/own/positive' of dtype int32, which depends"),
    ("last", 1, r"'cache/own/last' as float32\[1, 6, 6, 4\] and leaves it"),
    ("late", 1, "cannot be trained and evaluated.*first call"),
    ("always", 1, "cannot be trained and evaluated.*change them only if"),
    ("noise", 1, "cannot be trained and evaluated.*from 'dropout' only"),
  ],
)
def test_state_that_cannot_be_kept_is_refused(keeps, data, words):
  group = groups.replicas(Foreign(keeps=keeps), 2, make_mesh(data))
  with pytest.raises(groups.GroupError, match=words):
    groups.check(group, IMAGES[:1])


class Keyed(nn.Module):
  """Keeps a random key."""

  @nn.compact
  def __call__(self, x, *, train):
    self.variable("own", "key", lambda: jax.random.key(7))
    return nn.Dense(5)(x.mean((1, 2)))


def test_a_random_key_that_a_network_keeps_is_refused():
  group = groups.replicas(Keyed(), 2, make_mesh(1))
  with pytest.raises(
    groups.GroupError, match="Keyed keeps the random key 'own/key'"
  ):
    groups.check(group, IMAGES[:1])


class Together(nn.Module):
  """Draws for examples, or lets them depend on each other, in some way."""

  way: str

  @nn.compact
  def __call__(self, x, *, train):
    x = nn.Conv(4, (3, 3))(x)
    if self.way == "flax's dropout":
      path = nn.Dropout(0.5, broadcast_dims=(1, 2, 3))
      x = path(x, deterministic=not train)
    elif self.way.endswith("draws") and train:
      x = x * self._mask(len(x))[:, None, None, None]
    elif self.way == "mean":
      x = x - x.mean(0)
    elif self.way == "mean in training" and train:
      x = x - x.mean(0)
    elif self.way == "mean of all" and train:
      x = x - jax.lax.pmean(x.mean(0), "data")
    elif self.way == "mean beside flax's norm":
      x = nn.BatchNorm(not train)(x)
      x = x - x.mean(0)
    return nn.Dense(5)(x.mean((1, 2)))

  def _mask(self, count):
    key, places = self.make_rng("dropout"), jnp.arange(count)
    if self.way == "own draws":
      return jax.random.bernoulli(key, 0.5, (count,))
    if self.way == "one for all draws":
      return jnp.repeat(jax.random.bernoulli(key, 0.5), count)
    if self.way == "right draws":
      places += jax.lax.axis_index("data") * count
    return jax.vmap(
      lambda i: jax.random.bernoulli(jax.random.fold_in(key, i), 0.5)
    )(places)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  "way",
  ["flax's dropout", "one for all draws", "right draws", "mean of all"],
)
def test_examples_may_know_of_all_devices(way, dtype):
  images = IMAGES[:1].astype(dtype)
  groups.check(groups.replicas(Together(way), 2, make_mesh(2)), images)


@pytest.mark.parametrize(
  ("way", "words"),
  [
    ("own draws", "Together draws random numbers"),
    ("draws", "Together draws random numbers"),
    ("mean", "outputs of an example depend on the other"),
    ("mean in training", "outputs of an example depend on the other"),
    ("mean beside flax's norm", "outputs of an example depend on the other"),
  ],
)
def test_examples_that_depend_on_those_beside_them_are_refused(way, words):
  net = Together(way)
  groups.check(groups.replicas(net, 2, make_mesh(1)), IMAGES[:1])
  with pytest.raises(groups.GroupError, match=words):
    groups.check(groups.replicas(net, 2, make_mesh(2)), IMAGES[:1])


def test_state_of_one_device_may_be_anything_floating():
  groups.check(
    groups.replicas(Foreign(keeps="largest"), 2, make_mesh(1)), IMAGES[:1]
  )


def test_names_with_slashes_survive_an_export():
  group = groups.replicas(Foreign(keeps="spectral"), 1, make_mesh(1))
  variables = jax.eval_shape(group.init, jax.random.key(0), IMAGES[:1])
  flat = exported.flatten(variables)
  assert "batch_stats/own/norm/inner~1kernel~1u" in flat
  assert exported.unflatten(flat) == variables


class Masking(nn.Module):
  """Asks for another input."""

  @nn.compact
  def __call__(self, x, mask, *, train):
    return nn.Dense(5)(jnp.mean(x * mask, (1, 2)))


def test_a_network_called_otherwise_is_refused():
  with pytest.raises(
    groups.GroupError, match=r"Deterministic must be called.*'train'"
  ):
    groups.replicas(Deterministic(), 2, make_mesh(1))
  with pytest.raises(groups.GroupError, match="argument: 'mask'.*a default"):
    groups.replicas(Masking(), 2, make_mesh(1))


class Partitioned(nn.Module):
  """Names axes for its parameters, as networks for large machines do."""

  names: tuple[str | None, ...]

  @nn.compact
  def __call__(self, x, *, train):
    init = nn.initializers.lecun_normal()
    kernel_init = nn.with_partitioning(init, self.names)
    return nn.Dense(5, kernel_init=kernel_init)(x.mean((1, 2)))


@pytest.mark.parametrize("mapping", ["unroll", "vmap"])
@pytest.mark.parametrize("axis", ["model", "data"])
def test_a_network_is_whole_whatever_its_partitioning(axis, mapping):
  found = []
  for names in ((None, None), (None, axis)):
    net = Partitioned(names)
    group = groups.replicas(net, 2, make_mesh(2, 2), mapping)
    groups.check(group, IMAGES[:1])
    variables = group.init(jax.random.key(0), IMAGES[:1])
    apply = functools.partial(group.apply, train=True)
    found.append(jax.jit(apply)(variables, IMAGES, jax.random.key(1))[0].logits)
    assert isinstance(group.extract(variables, 1)[1]["params"], dict)
    leaf = variables["params"]["Dense_0"]["kernel"]
    assert isinstance(leaf, jax.Array)
  np.testing.assert_array_equal(*found)


class Normalised(nn.Module):
  """Flax's batch norm over an axis, as networks for `jax.pmap` have it."""

  center: Any = 0.0

  @nn.compact
  def __call__(self, x, *, train):
    x = nn.BatchNorm(not train, axis_name="batch")(x - self.center)
    return nn.Dense(5)(x.mean((1, 2)))


@pytest.mark.parametrize("center", [0.0, np.zeros(6)])
@pytest.mark.parametrize("data", [1, 2])
def test_other_axes_and_fields_of_arrays_are_allowed(center, data):
  group = groups.replicas(Normalised(center), 2, make_mesh(data))
  groups.check(group, IMAGES[:1])
  variables = group.init(jax.random.key(0), IMAGES[:1])
  jax.jit(lambda v: group.apply(v, IMAGES, jax.random.key(1), train=True))(
    variables
  )
