"""Networks of flax nnx as peers: what they keep, drop, refuse and give away."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import okddip_digits
from examples.nnx_network import Small
from okd_jax import groups, train
from okd_jax.backbones import count_parameters, nnx_network
from okd_jax.devices.mesh import make_mesh
from okd_jax.errors import ConfigError
from okd_jax.runs import run as run_lib
from okd_jax.settings.freeze import freeze
from okd_jax.storage.checkpoint import Checkpoints
from okd_jax.training import state as state_lib
from okd_jax.weights import exported
import runs
import toys

IMAGES = jax.random.normal(jax.random.key(3), (8, 6, 6, 1))


class RunningMean(nnx.Variable):
  """A type of state that flax does not know."""


class Streams(nnx.Module):
  """Drops with a stream of the constructor, of its own and of the call."""

  def __init__(self, num_classes, *, rngs):
    self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
    self.layers = nnx.List([nnx.Linear(36, 4, rngs=rngs)])
    self.made = nnx.Dropout(0.5, rngs=rngs)
    self.called = nnx.Dropout(0.5)
    self.head = nnx.Linear(4, num_classes, rngs=rngs)
    self.seen = RunningMean(jnp.zeros(4))
    self.steps = nnx.Variable(jnp.zeros((), jnp.int32))
    self.rngs = rngs

  def __call__(self, x, *, train, rngs):
    x = self.layers[0](x.reshape(len(x), -1))
    if train:
      self.seen[...] = 0.5 * self.seen[...] + 0.5 * x.mean(0)
      self.steps[...] += 1
    x = self.made(nnx.relu(self.norm(x)))
    x = self.called(x + 1, rngs=self.rngs) + self.called(x + 1, rngs=rngs)
    return self.head(x)


def one_pass(net, data, peer, train=True):
  peers = groups.replicas(net, 2, make_mesh(data, peer), "unroll")
  variables = peers.init(jax.random.key(0), IMAGES[:1])
  outputs, after = jax.jit(
    lambda v, x: peers.apply(v, x, jax.random.key(1), train=train)
  )(variables, IMAGES)
  return jax.device_get((variables, outputs.logits, after))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["replicas", "branches"])
@pytest.mark.checklist("D2")
def test_every_mesh_trains_alike(kind):
  net = nnx_network.make(Small, toys.INFO.num_classes)
  with jax.enable_x64(True):
    one, *others = [
      runs.train(
        toys.recipe(
          "okddip",
          kind=kind,
          data=data,
          peer=peer,
          num_peers=2,
          net=net,
          dtype=jnp.float64,
        ),
        5,
      )
      for data, peer in ((1, 1), (2, 2))
    ]
    for other in others:
      runs.assert_close(other, one, 1e-9)


@pytest.mark.long
def test_all_streams_and_own_state_do_not_depend_on_the_mesh():
  net = nnx_network.make(Streams, 5)
  before, one, after = one_pass(net, 1, 1)
  for shape in ((2, 1), (4, 2)):
    runs.assert_close(one_pass(net, *shape)[1:], (one, after), 1e-5)
  # Each peer keeps its own, and no stream is state.
  assert sorted(before) == ["RunningMean", "Variable", "batch_stats", "params"]
  assert after["RunningMean"]["seen"].shape == (2, 4)
  assert not np.allclose(*after["RunningMean"]["seen"])
  np.testing.assert_array_equal(after["Variable"]["steps"], [1, 1])
  layer = before["params"]["layers"]["0"]
  means = jnp.mean(IMAGES.reshape(8, -1), 0) @ layer["kernel"] + layer["bias"]
  np.testing.assert_allclose(
    after["RunningMean"]["seen"], means / 2, rtol=1e-4, atol=1e-6
  )
  np.testing.assert_allclose(
    after["batch_stats"]["norm"]["mean"], means / 10, rtol=1e-4, atol=1e-6
  )


@pytest.mark.long
def test_masks_differ_between_examples_peers_and_keys():
  net = nnx_network.make(Streams, 5)
  variables = net.init(jax.random.key(0), IMAGES[:1], train=False)
  same = jnp.broadcast_to(IMAGES[:1], IMAGES.shape)

  def logits(key):
    return net.apply(
      variables,
      same,
      train=True,
      mutable=True,
      rngs={"dropout": jax.random.key(key)},
    )[0]

  first = logits(0)
  assert len(np.unique(np.asarray(first).round(5), axis=0)) > 4
  assert not np.allclose(first, logits(1))
  np.testing.assert_array_equal(first, logits(0))
  still = [net.apply(variables, same, train=False) for _ in range(2)]
  np.testing.assert_array_equal(*still)
  np.testing.assert_array_equal(still[0], still[0][:1].repeat(8, 0))


def test_says_what_the_nnx_module_says():
  net = nnx_network.make(Small, 5)
  variables = net.init(jax.random.key(0), IMAGES[:1], train=False)
  module = Small(5, rngs=nnx.Rngs(0))
  assert count_parameters(variables["params"]) == count_parameters(
    nnx.state(module, nnx.Param)
  )
  for collection in ("params", "batch_stats"):
    nnx.update(module, nnx.State(variables[collection]))
  # Without dropout, which draws with other keys.
  module.train()
  module.dropout.deterministic = True
  _, features = module(IMAGES)
  (_, ours), after = net.apply(
    variables,
    IMAGES,
    train=True,
    mutable=["batch_stats"],
    rngs={"dropout": jax.random.key(0)},
  )
  np.testing.assert_allclose(ours, features, rtol=1e-5, atol=1e-6)
  for name in ("norm1", "norm2"):
    for part in ("mean", "var"):
      np.testing.assert_allclose(
        after["batch_stats"][name][part],
        getattr(getattr(module, name), part)[...],
        rtol=1e-5,
        atol=1e-6,
      )
  module.eval()
  evaluated = net.apply({**variables, **after}, IMAGES, train=False)
  runs.assert_close(evaluated, module(IMAGES), 1e-5)


class Scaled(nnx.Module):
  """Keeps an array that is no variable, in a layer that it has twice."""

  def __init__(self, num_classes, *, rngs):
    layer = nnx.Linear(6, 6, rngs=rngs)
    layer.scale = jnp.arange(6.0)
    self.layers = nnx.List([layer, layer])
    self.head = nnx.Linear(6, num_classes, rngs=rngs)

  def __call__(self, x):
    x = x.mean((1, 3))
    for layer in self.layers:
      x = layer(x) * layer.scale
    return self.head(x)


def test_an_array_that_is_no_variable_is_kept():
  peers = groups.replicas(nnx_network.make(Scaled, 5), 2, make_mesh(1))
  variables = peers.init(jax.random.key(0), IMAGES[:1])
  expected = {"layers": {"0": {"scale": np.tile(np.arange(6.0), (2, 1))}}}
  runs.assert_close(variables["arrays"], expected, 0)
  outputs, after = jax.jit(
    lambda v: peers.apply(v, IMAGES, jax.random.key(1), train=True)
  )(variables)
  runs.assert_close(after["arrays"], expected, 0)
  module = Scaled(5, rngs=nnx.Rngs(0))
  second = jax.tree.map(lambda v: v[1], variables["params"])
  nnx.update(module.layers[0], second["layers"]["0"])
  nnx.update(module.head, second["head"])
  runs.assert_close(outputs.logits[1], module(IMAGES), 1e-5)


@pytest.mark.long
def test_computes_in_bfloat16():
  net = nnx_network.make(Small, 5, dtype=jnp.dtype("bfloat16"))
  variables = net.init(jax.random.key(0), IMAGES[:1], train=False)
  assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
  (logits, features), after = net.apply(
    variables,
    IMAGES.astype(jnp.bfloat16),
    train=True,
    mutable=["batch_stats"],
    rngs={"dropout": jax.random.key(0)},
  )
  assert logits.dtype == features.dtype == jnp.bfloat16
  assert {v.dtype for v in jax.tree.leaves(after)} == {jnp.dtype("float32")}


class Noisy(Streams):
  def __call__(self, x):
    noise = jax.random.normal(self.rngs.noise(), (len(x), 5))
    return self.head(self.layers[0](x.reshape(len(x), -1))) + noise


def test_noise_that_devices_would_share_is_refused():
  net = nnx_network.make(Noisy, 5)
  groups.check(groups.replicas(net, 2, make_mesh(1)), IMAGES[:1])
  with pytest.raises(groups.GroupError, match="Noisy draws random numbers"):
    groups.check(groups.replicas(net, 2, make_mesh(2)), IMAGES[:1])


class KeepsKey(Streams):
  def __init__(self, num_classes, *, rngs):
    super().__init__(num_classes, rngs=rngs)
    self.key = nnx.Variable(rngs.params())


class AsksMore(Streams):
  def __call__(self, x, mask):
    return x


class Counts(Streams):
  def __call__(self, x):
    self.steps[...] += jnp.sum(x > 0)
    return self.head(self.layers[0](x.reshape(len(x), -1)))


class Bare(nnx.Module):
  def __init__(self, num_classes, *, rngs):
    pass


class NoRngs(nnx.Module):
  def __init__(self, num_classes):
    pass

  def __call__(self, x):
    return x


class BothHalves(nnx.Module):
  def __init__(self, num_classes, *, part="whole", rngs):
    self.head = nnx.Linear(36, num_classes, rngs=rngs)

  def __call__(self, x):
    return self.head(x.reshape(len(x), -1))


class MissingLayer(BothHalves):
  def __init__(self, num_classes, *, part="whole", rngs):
    if part == "tail":
      self.head = nnx.Linear(36, num_classes, rngs=rngs)


@pytest.mark.parametrize(
  ("network", "words"),
  [
    (KeepsKey, "keeps the random key 'Variable/key'"),
    (AsksMore, "asks for 'mask'"),
    (Counts, "keeps 'Variable/steps' of type int32"),
    (Bare, "without __call__"),
    (NoRngs, "cannot be made with the arguments num_classes, rngs"),
  ],
)
def test_what_cannot_be_right_is_refused(network, words):
  with pytest.raises(ConfigError, match=words):
    one_pass(nnx_network.make(network, 5), 2, 1)


@pytest.mark.parametrize(
  ("network", "words"),
  [
    (BothHalves, "both trunk and tail of BothHalves make 'head'"),
    (MissingLayer, "'head' .* is not in the whole network"),
  ],
)
def test_parts_must_make_up_the_whole(network, words):
  net = nnx_network.make(network, 5).clone(part="trunk")
  with pytest.raises(ConfigError, match=words):
    net.init(jax.random.key(0), IMAGES[:1], train=False)


def test_goes_on_from_a_checkpoint_to_the_last_bit(tmp_path):
  net = nnx_network.make(Streams, toys.INFO.num_classes)
  recipe = toys.recipe("independent", num_peers=2, net=net)
  state = runs.start(recipe)
  abstract = state_lib.abstract(recipe, jax.random.key(0))
  step_fn = runs.jitted(recipe, state)

  def go_on(state, steps):
    for step in steps:
      batch = runs.on_mesh(recipe, toys.batch(step))
      state, _ = step_fn(state, batch, jax.random.key(1), None)
    return state

  state = go_on(state, range(2))
  Checkpoints(tmp_path).save(2, state, wait=True)
  expected = jax.device_get(go_on(state, range(2, 4)))
  restored, _, _ = Checkpoints(tmp_path).restore(abstract, 2)
  actual = jax.device_get(go_on(restored, range(2, 4)))
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def recipe(kind):
  config = okddip_digits.get_config("smoke")
  config.peers.net = "examples.nnx_network:Small"
  config.peers.kind = kind
  config.peers.num_peers = 2
  config.mesh.data = 2
  config.epochs = 1
  return config


@pytest.mark.long
@pytest.mark.parametrize("kind", ["replicas", "branches"])
def test_trains_and_gives_its_leader_away(kind, tmp_path):
  train.train(freeze(recipe(kind)), tmp_path / "run")
  run = run_lib.run(tmp_path / "run")
  network, variables = run.setup.peers.extract(run.peers_variables, run.leader)
  assert type(network).__name__ == "Small"
  images = np.random.default_rng(0).uniform(size=(4, 8, 8, 1))
  normalized = (images - run.info.mean) / run.info.std
  expected, _ = network.apply(variables, normalized, train=False)
  apply, taken = exported.load_leader(tmp_path / "run" / "leader")
  np.testing.assert_allclose(
    apply(taken, images.astype(np.float32)), expected, atol=1e-5
  )
