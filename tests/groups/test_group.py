"""Groups of peers: both kinds, mixtures, views, users' own networks."""

import chex
from flax import linen as nn, nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax import groups, layers
from okd_jax.backbones.network import Network
from okd_jax.devices.mesh import make_mesh
from okd_jax.groups.map_peers import map_peers
from okd_jax.training.setup import initial_key
from okd_jax.weights import exported
import toys

IMAGES = jax.random.normal(jax.random.key(3), (8, 6, 6, 1))
NET = toys.Toy(5, dropout=0.0)


def passed(peers, variables, images, train=False):
  """One jitted pass."""
  return jax.jit(
    lambda v, x: peers.apply(v, x, jax.random.key(1), train=train)
  )(variables, images)


def both(mesh=None, mapping="unroll", num_peers=4, net=NET):
  mesh = mesh or make_mesh(1)
  return {
    "replicas": groups.replicas(net, num_peers, mesh, mapping),
    "branches": groups.branches(net, num_peers, mesh, mapping),
  }


@pytest.mark.parametrize("kind", ["replicas", "branches"])
def test_every_peer_is_the_network_alone(kind):
  peers = both()[kind]
  variables = peers.init(jax.random.key(0), IMAGES[:1])
  outputs, after = passed(peers, variables, IMAGES, train=True)
  assert outputs.logits.shape == (4, 8, 5)
  assert outputs.features.shape == (4, 8, 8)
  for peer in (0, 3):
    net, own = peers.extract(variables, peer)
    alone, stats = net.apply(own, IMAGES, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(outputs.logits[peer], alone.logits, atol=1e-5)
    np.testing.assert_allclose(
      outputs.features[peer], alone.features, atol=1e-5
    )
    np.testing.assert_allclose(
      outputs.maps[-1][peer], alone.maps[-1], atol=1e-5
    )
    _, mine = peers.extract({"params": variables["params"], **after}, peer)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
      mine["batch_stats"],
      dict(stats["batch_stats"]),
    )


def test_the_first_network_starts_as_one_alone():
  made = [
    groups.replicas(NET, count, make_mesh(1)).init(initial_key(3), IMAGES[:1])
    for count in (1, 4)
  ]
  firsts = [jax.tree.map(lambda leaf: leaf[0], each) for each in made]
  chex.assert_trees_all_equal(*firsts)


def test_peers_start_from_different_values():
  variables = both()["replicas"].init(jax.random.key(0), IMAGES[:1])
  kernel = variables["params"]["stage1_conv"]["kernel"]
  assert not np.allclose(kernel[0], kernel[1])


def test_trunk_output_is_averaged_over_positions():
  peers = both()["branches"]
  variables = peers.init(jax.random.key(0), IMAGES[:1])
  outputs, _ = passed(peers, variables, IMAGES)
  trunk = {name: tree["trunk"] for name, tree in variables.items()}
  hidden = NET.clone(part="trunk").apply(trunk, IMAGES, train=False)
  np.testing.assert_allclose(outputs.trunk, hidden.mean((1, 2)), atol=1e-6)


class Tokens(nn.Module):
  """A network whose trunk returns tokens [B, T, D], not a map."""

  part: str = "whole"

  @nn.compact
  def __call__(self, x, *, train):
    del train
    if self.part != "tail":
      x = nn.Dense(3, use_bias=False, name="stem")(x.reshape(len(x), -1, 1))
    return x if self.part == "trunk" else nn.Dense(5, name="head")(x.mean(1))


def test_tokens_of_a_trunk_are_averaged_too():
  peers = groups.branches(Tokens(), 2, make_mesh(2, 2))
  variables = peers.init(jax.random.key(0), IMAGES[:1])
  kernel = variables["params"]["trunk"]["stem"]["kernel"]
  for images in (IMAGES, jnp.stack([IMAGES, 2 * IMAGES])):
    outputs, _ = passed(peers, variables, images)
    means = images.mean((-3, -2)) * kernel[0]
    np.testing.assert_allclose(outputs.trunk, means, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2)])
def test_views_pass_the_trunk_one_after_another(shape):
  peers = both(make_mesh(*shape))["branches"]
  variables = peers.init(jax.random.key(0), IMAGES[:1])
  views = jnp.stack([IMAGES * (1 + 0.3 * i) + 0.1 * i for i in range(4)])
  outputs, after = passed(peers, variables, views, train=True)
  # The definition: each view updates the running statistics in its turn.
  trunk = {name: tree["trunk"] for name, tree in variables.items()}
  for i, view in enumerate(views):
    hidden, stats = NET.clone(part="trunk").apply(
      trunk, view, train=True, mutable=["batch_stats"]
    )
    tail = {
      name: jax.tree.map(lambda leaf, i=i: leaf[i], tree["tails"])
      for name, tree in variables.items()
    }
    one, _ = NET.clone(part="tail").apply(
      tail, hidden, train=True, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(outputs.logits[i], one.logits, atol=2e-5)
    trunk = {"params": trunk["params"], **stats}
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    after["batch_stats"]["trunk"],
    dict(trunk["batch_stats"]),
  )
  assert outputs.trunk.shape == (4, 8, 4)


def gradient_of(trunk_gradient, mapping="unroll", mesh=(1, 1), peers=4):
  """Of a loss of the first branches, by what enters the trunk."""
  group = groups.branches(NET, 4, make_mesh(*mesh), mapping, trunk_gradient)
  variables = both()["branches"].init(jax.random.key(0), IMAGES[:1])

  def loss(params):
    outputs, _ = group.apply(
      {**variables, "params": params}, IMAGES, jax.random.key(1), train=False
    )
    return jnp.sum(jnp.sin(outputs.logits[:peers]))

  return jax.jit(jax.grad(loss))(variables["params"])


def assert_close(actual, desired):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    actual,
    desired,
  )


def test_mean_trunk_gradient_divides_what_enters_the_trunk():
  summed, mean = gradient_of("sum"), gradient_of("mean")
  assert_close(jax.tree.map(lambda x: x / 4, summed["trunk"]), mean["trunk"])
  assert_close(summed["tails"], mean["tails"])


@pytest.mark.parametrize(
  ("mapping", "mesh"), [("unroll", (1, 1)), ("vmap", (2, 2))]
)
def test_the_first_branch_alone_may_train_the_trunk(mapping, mesh):
  first = gradient_of("first", mapping, mesh)
  assert_close(first["trunk"], gradient_of("sum", peers=1)["trunk"])
  assert_close(first["tails"], gradient_of("sum")["tails"])


def test_the_first_of_different_branches_alone_may_train_the_trunk():
  group = groups.different_branches(
    [NET, NET], make_mesh(1), trunk_gradient="first"
  )
  variables = group.init(jax.random.key(0), IMAGES[:1])

  def losses(params):
    outputs, _ = group.apply(
      {**variables, "params": params}, IMAGES, jax.random.key(1), train=False
    )
    return jnp.sum(jnp.sin(outputs.logits), (1, 2))

  slopes = jax.jit(jax.jacrev(losses))(variables["params"])
  trains = {
    part: np.any([jnp.any(x, range(1, x.ndim)) for x in leaves], axis=0)
    for part in ("trunk", "tails")
    if (leaves := jax.tree.leaves(slopes[part]))
  }
  assert trains["trunk"].tolist() == [True, False]
  assert trains["tails"].all()


def test_another_trunk_gradient_is_refused():
  with pytest.raises(groups.GroupError, match="'average' must be one of"):
    groups.branches(NET, 4, make_mesh(1), trunk_gradient="average")


def test_mixture_joins_logits_and_keeps_features_apart():
  mesh = make_mesh(1)
  wide = toys.Toy(5, width=12, dropout=0.0)
  peers = groups.mixed((groups.Stack(wide, 2), NET), mesh)
  variables = peers.init(jax.random.key(0), IMAGES[:1])
  outputs, after = passed(peers, variables, IMAGES, train=True)
  assert peers.num_peers == 3
  assert outputs.logits.shape == (3, 8, 5)
  assert [f.shape for f in outputs.features] == [(8, 12), (8, 12), (8, 8)]
  assert [m.shape[-1] for m in outputs.maps[-1]] == [12, 12, 8]
  assert jax.tree.structure(after["batch_stats"]) == jax.tree.structure(
    variables["batch_stats"]
  )
  net, own = peers.extract(variables, -1)
  alone = net.apply(own, IMAGES, train=False)
  evaluated, _ = passed(peers, variables, IMAGES)
  np.testing.assert_allclose(evaluated.logits[2], alone.logits, atol=1e-5)
  with pytest.raises(ValueError, match="must be 1 for a group of different"):
    groups.mixed((NET, wide), make_mesh(1, 2))


class Bare(nn.Module):
  """Without statistics, whole or as the trunk of others."""

  @nn.compact
  def __call__(self, x, *, train):
    return nn.Conv(4, (3, 3))(x)


class Normed(nn.Module):
  """With statistics, whole or on a trunk."""

  @nn.compact
  def __call__(self, x, *, train):
    x = nn.BatchNorm(use_running_average=not train)(x)
    return nn.Dense(5)(x.mean((1, 2)))


@pytest.mark.parametrize(
  "peers",
  [
    groups.Group((groups.Stack(Normed(), 2),), make_mesh(1), stem=Bare()),
    groups.mixed((NET, toys.Quick(5)), make_mesh(1)),
  ],
  ids=["branches", "mixed"],
)
def test_variables_come_back_from_a_file(peers):
  """Which keeps no empty collections."""
  variables = peers.init(jax.random.key(0), IMAGES[:1])
  kept = exported.unflatten(exported.flatten(variables))
  assert kept["batch_stats"].keys() < variables["batch_stats"].keys()
  expected, _ = passed(peers, variables, IMAGES)
  found, _ = passed(peers, kept, IMAGES)
  np.testing.assert_array_equal(found.logits, expected.logits)


class Plain(nn.Module):
  """A network as a user writes it: flax's own layers, logits alone."""

  num_classes: int = 5

  @nn.compact
  def __call__(self, x, train):
    x = nn.Conv(4, (3, 3))(x)
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
    x = nn.relu(x).mean((1, 2))
    x = nn.Dropout(0.5, deterministic=not train)(x)
    return nn.Dense(self.num_classes)(x)


@pytest.mark.parametrize(
  "net",
  [Plain(), pytest.param(toys.Toy(5, dropout=0.5), marks=pytest.mark.long)],
)
@pytest.mark.checklist("D2")
def test_statistics_and_dropout_do_not_depend_on_the_mesh(net):
  def outcome(data, peer):
    peers = groups.replicas(net, 2, make_mesh(data, peer))
    variables = peers.init(jax.random.key(0), IMAGES[:1])
    outputs, after = passed(peers, variables, IMAGES, train=True)
    return jax.device_get((outputs.logits, after))

  one, many = outcome(1, 1), outcome(4, 2)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    one,
    many,
  )


class Dropping(nn.Module):
  """Returns its input with half of it dropped; equal however it is drawn."""

  @nn.compact
  def __call__(self, x, *, train):
    x = x.reshape(len(x), -1) * self.param("scale", nn.initializers.ones, ())
    return nn.Dropout(0.5, deterministic=not train)(x)


@pytest.mark.parametrize(
  "peers",
  [
    groups.replicas(Dropping(), 2, make_mesh(1)),
    groups.replicas(Dropping(), 2, make_mesh(1, 2)),
    groups.mixed([Dropping(), Dropping()], make_mesh(1)),
  ],
)
def test_equal_peers_drop_apart(peers):
  variables = peers.init(jax.random.key(0), IMAGES[:1])
  one, two = passed(peers, variables, IMAGES, train=True)[0].logits == 0
  # Independent masks agree in half of the places.
  assert 0.3 < np.mean(np.asarray(one) == np.asarray(two)) < 0.7


def test_every_network_of_a_mixture_sees_its_own_view():
  peers = groups.mixed([groups.Stack(Dropping(), 2), Dropping()], make_mesh(1))
  variables = peers.init(jax.random.key(0), IMAGES[:1])
  views = jax.random.normal(jax.random.key(4), (3, *IMAGES.shape))
  outputs, _ = passed(peers, variables, views)
  np.testing.assert_array_equal(outputs.logits, views.reshape(3, 8, -1))


def test_running_variance_is_unbiased_over_the_whole_batch():
  class Norm(nn.Module):
    @nn.compact
    def __call__(self, x, train):
      return layers.BatchNorm()(x, use_running_average=not train).mean((1, 2))

  peers = groups.replicas(Norm(), 1, make_mesh(4))
  variables = peers.init(jax.random.key(0), IMAGES[:1])
  _, after = passed(peers, variables, IMAGES, train=True)
  expected = 0.9 + 0.1 * np.var(np.asarray(IMAGES), ddof=1)
  got = after["batch_stats"]["BatchNorm_0"]["var"][0]
  np.testing.assert_allclose(got, [expected], rtol=1e-5)


def test_vmap_and_unroll_agree():
  def fn(weight, x, key):
    return jnp.tanh(x @ weight) + jax.random.normal(key, (1,))

  weights = jax.random.normal(jax.random.key(0), (3, 4, 2))
  keys = jax.random.split(jax.random.key(1), 3)
  x = jnp.ones((5, 4))
  axes = (0, None, 0)
  np.testing.assert_allclose(
    map_peers(fn, "vmap", axes)(weights, x, keys),
    map_peers(fn, "unroll", axes)(weights, x, keys),
    rtol=1e-6,
  )


def apply_odd(*views):
  """Passes three examples, or views of them, to a group on two devices."""
  group = groups.replicas(Plain(), 2, make_mesh(2))
  images = jnp.ones((*views, 3, 6, 6, 1))
  group.apply({}, images, jax.random.key(0), train=False)


@pytest.mark.parametrize(
  ("make", "words"),
  [
    (lambda: groups.replicas(NET, 3, make_mesh(1, 2)), "must divide"),
    (lambda: groups.replicas(NET, 0, make_mesh(1)), "at least 1"),
    (lambda: groups.replicas(NET, 2.0, make_mesh(1)), "2.0 must be a whole"),
    (lambda: apply_odd(), "3 examples must be a multiple of 2"),
    (lambda: apply_odd(2), "3 examples must be a multiple of 2"),
    (lambda: groups.replicas(NET, 2, make_mesh(1), "scan"), "must be one of"),
    (lambda: groups.branches(Plain(), 2, make_mesh(1)), "no field 'part'"),
    (lambda: groups.replicas(Plain, 2, make_mesh(1)), "got the class Plain"),
    (lambda: groups.branches("resnet8", 2, make_mesh(1)), "got 'resnet8'"),
    (lambda: groups.mixed([nnx.Module()], make_mesh(1)), "nnx_network.make"),
  ],
)
def test_groups_that_cannot_be_are_refused(make, words):
  with pytest.raises(ValueError, match=words):
    make()


def test_network_is_abstract():
  assert issubclass(toys.Toy, Network)
