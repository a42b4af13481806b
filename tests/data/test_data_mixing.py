"""Mixed pictures and targets, and all that `config.augment` asks for."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
import numpy as np
import pytest
import quick

from configs import okddip_digits
from okd_jax import data
from okd_jax.data import mixing
from okd_jax.data.augmentation import Augment
from okd_jax.data.info import KNOWN
from okd_jax.devices.mesh import make_mesh
from okd_jax.errors import ConfigError
from okd_jax.settings import build
from okd_jax.settings.freeze import freeze
from okd_jax.tasks import classification
import runs
import toys

INFO = dataclasses.replace(
  toys.INFO, image_shape=(12, 12, 3), mean=(0.4,) * 3, std=(0.3,) * 3
)
# Everything at once, in two forms.
ALL = {
  "rand": Augment(
    policy="rand_augment", jitter=(0.4, 0.4, 0.4, 0.1), erase=0.5, mixup=0.8
  ),
  "trivial": Augment(
    policy="trivial_augment", cutout=4, cutmix=1.0, mixup=0.2, crop=False
  ),
}


def images(size=8):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (size, *INFO.image_shape), dtype=np.uint8)


def labels_as_pictures(size=6, classes=6):
  """Pictures whose channel c is 1 for class c, and their targets."""
  targets = np.eye(classes, dtype=np.float32)[np.arange(size) % classes]
  pictures = np.broadcast_to(targets[:, None, None], (size, 8, 8, classes))
  return jnp.asarray(pictures), jnp.asarray(targets)


@pytest.mark.parametrize(
  "how",
  [
    pytest.param(Augment(mixup=0.5), marks=pytest.mark.long),
    pytest.param(Augment(cutmix=1.0), marks=pytest.mark.long),
    Augment(mixup=0.5, cutmix=1.0),
  ],
  ids=["mixup", "cutmix", "both"],
)
@pytest.mark.parametrize("views", quick.only([3], [None, 3]))
@pytest.mark.parametrize("per_peer", [False, True])
def test_targets_are_the_shares_of_what_is_in_a_picture(how, views, per_peer):
  if per_peer and not views:
    return
  how = dataclasses.replace(how, mix_per_peer=per_peer)
  pictures, targets = labels_as_pictures()
  given = pictures if views is None else jnp.stack([pictures] * views)
  mix = jax.jit(functools.partial(mixing.mix, how=how))
  shares = set()
  for seed in range(12):
    mixed, found = mix(given, targets, jax.random.key(seed))
    assert mixed.shape == given.shape
    # A picture holds as much of a class as its target says.
    seen = np.mean(mixed, (-3, -2))
    expected = found if per_peer or views is None else np.stack([found] * views)
    np.testing.assert_allclose(seen, expected, atol=1e-6)
    np.testing.assert_allclose(np.sum(found, -1), 1, atol=1e-6)
    if views and not per_peer:  # all peers see the same mixture
      np.testing.assert_array_equal(mixed, np.stack([mixed[0]] * views))
    shares |= set(np.round(np.ravel(np.max(found, -1)), 6).tolist())
  assert len(shares) > 5
  if per_peer:
    assert not np.allclose(found[0], found[1])


def test_shares_follow_the_beta_distribution():
  pictures, targets = labels_as_pictures()
  mix = jax.jit(
    jax.vmap(
      lambda key: mixing.mix(pictures, targets, key, how=Augment(mixup=0.2))[1]
    )
  )
  share = np.asarray(mix(jax.random.split(jax.random.key(0), 2000)))[:, 0, 0]
  # Of Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1)).
  np.testing.assert_allclose(share.mean(), 0.5, atol=0.03)
  np.testing.assert_allclose(share.var(), 1 / (4 * 1.4), atol=0.02)


@pytest.mark.parametrize(
  ("how", "views"),
  [pytest.param("rand", 2, marks=pytest.mark.long), ("trivial", None)],
)
def test_every_mesh_sees_the_same_pictures(how, views):
  batch = images()
  key = jax.random.key(0)
  augment = functools.partial(
    data.augment, info=INFO, how=ALL[how], num_views=views
  )
  expected = np.asarray(augment(batch, key))
  mesh = make_mesh(4, 2)
  placed = jax.device_put(batch, NamedSharding(mesh, P("data")))
  np.testing.assert_array_equal(augment(placed, key, mesh=mesh), expected)
  assert np.all(np.isfinite(expected))
  plain = data.augment(batch, key, info=INFO, num_views=views)
  changed = np.any(plain != expected, (-3, -2, -1))
  assert changed.mean() > 0.5
  if views:
    assert np.any(expected[0] != expected[1])


def test_without_more_the_pictures_are_those_of_earlier_releases():
  batch, key = images(), jax.random.key(3)
  np.testing.assert_array_equal(
    data.augment(batch, key, info=INFO, how=Augment()),
    data.augment(batch, key, info=INFO),
  )
  still = dataclasses.replace(INFO, flip=False)
  np.testing.assert_allclose(
    data.augment(batch, key, info=still, how=Augment(crop=False)),
    data.normalize(batch, still),
    rtol=1e-5,
    atol=1e-6,
  )


@pytest.mark.long
@pytest.mark.parametrize("views", [None, 2])
def test_crops_of_the_source_are_changed_too(views):
  info = dataclasses.replace(INFO, resized_crop=True)
  batch = images() if views is None else np.stack([images(), images() // 2])
  how = Augment(policy="trivial_augment", cutout=3)
  found = data.augment(
    batch, jax.random.key(0), info=info, how=how, num_views=views
  )
  plain = data.normalize(batch, info)
  assert found.shape == plain.shape
  assert np.any(np.asarray(found) != np.asarray(plain), (-3, -2, -1)).all()


def test_smoothed_labels_and_weights_of_classes():
  task = classification.Task.of(toys.INFO)
  smooth = dataclasses.replace(task, smoothing=0.1)
  batch = dataclasses.replace(toys.batch(0, 4), target=jnp.array([0, 1, 4, 1]))
  key = jax.random.key(0)
  found = smooth.augment(batch, key, num_views=None, mesh=None).target
  np.testing.assert_allclose(
    found[1], [0.02, 0.92, 0.02, 0.02, 0.02], rtol=1e-6
  )
  weighted = dataclasses.replace(task, class_weights=(1.0, 2.0, 0.0, 0.0, 3.0))
  np.testing.assert_allclose(weighted.weights(batch), [1, 2, 3, 2])
  soft = dataclasses.replace(batch, target=found)
  np.testing.assert_allclose(
    weighted.weights(soft)[1], 0.02 + 0.92 * 2 + 0.02 * 3, rtol=1e-6
  )


def test_smoothing_leaves_what_an_example_counts():
  weights = (1.0, 2.0, 0.0, 0.0, 3.0)
  labels = jnp.array([0, 1, 4, 2])
  for made in (
    classification.Task.of(toys.INFO),
    classification.Task(5, toys.INFO.image_shape),
  ):
    task = dataclasses.replace(made, smoothing=0.4, class_weights=weights)
    batch = dataclasses.replace(toys.batch(0, 4), target=labels)
    smooth = task.augment(batch, jax.random.key(0), num_views=None, mesh=None)
    np.testing.assert_allclose(smooth.target[0], [0.68, *[0.08] * 4], rtol=1e-6)
    found = task.weights(smooth)
    np.testing.assert_allclose(found, [1, 2, 3, 0], rtol=1e-5, atol=1e-6)
    assert np.all(np.asarray(found) >= 0)


@pytest.mark.parametrize("num_classes", quick.only([1203], [2, 1203]))
def test_few_and_many_classes(num_classes):
  info = dataclasses.replace(toys.INFO, num_classes=num_classes)
  task = dataclasses.replace(
    classification.Task.of(info), smoothing=0.1, augmentation=ALL["rand"]
  )
  batch = dataclasses.replace(
    toys.batch(0, 4), target=jnp.array([0, num_classes - 1, 1, 0])
  )
  found = task.augment(batch, jax.random.key(0), num_views=None, mesh=None)
  assert found.target.shape == (4, num_classes)
  np.testing.assert_allclose(np.sum(found.target, -1), 1, rtol=1e-5)
  assert np.all(np.isfinite(found.image))


def mixed(setup, **options):
  how = Augment(policy="rand_augment", mixup=0.4, cutmix=1.0, **options)
  task = dataclasses.replace(
    setup.task, augmentation=how, smoothing=0.1, class_weights=(1.0,) * 5
  )
  return dataclasses.replace(setup, task=task)


@pytest.mark.long
def test_peers_that_learn_alone_may_see_mixtures_of_their_own():
  setup = mixed(
    toys.recipe("independent", num_peers=2, net=toys.Quick()), mix_per_peer=True
  )
  batch = setup.augment(toys.batch(0), jax.random.key(0))
  assert batch.image.shape[:2] == (2, 16) and batch.target.shape == (2, 16, 5)
  state, measured = runs.train(setup, 2)
  assert np.all(np.isfinite(measured["terms"]["peer_ce"]))
  split, _ = runs.train(dataclasses.replace(setup, accumulate=2), 2)
  runs.assert_close(split.params, state.params, rtol=1e-5)
  for method in ("kd", "dml", "pcl"):
    kind = "branches" if method == "pcl" else "replicas"
    with pytest.raises(ConfigError, match="mix_per_peer=True: this method"):
      mixed(toys.recipe(method, kind=kind), mix_per_peer=True)


def test_weights_of_classes_count_in_every_term():
  plain = toys.recipe("dml", num_peers=2, net=toys.Quick())
  double = dataclasses.replace(
    plain, task=dataclasses.replace(plain.task, class_weights=(2.0,) * 5)
  )
  one, two = (runs.train(setup, 1)[1] for setup in (plain, double))
  for name in ("gradient_norm", "terms"):
    runs.assert_close(two[name], jax.tree.map(lambda x: 2 * x, one[name]), 1e-5)


def test_a_configuration_says_what_is_changed():
  config = okddip_digits.get_config("smoke")
  config.augment.policy = "trivial_augment"
  config.label_smoothing = 0.1
  config.class_weights = (1.0,) * 9 + (2.0,)

  def task():
    return build.setup(freeze(config), KNOWN["digits"], 100, make_mesh(1)).task

  made = task()
  assert made.augmentation.policy == "trivial_augment"
  assert (made.smoothing, made.class_weights[-1]) == (0.1, 2.0)
  config.class_weights = (1.0, 2.0)
  with pytest.raises(ConfigError, match="has 2 numbers, and the data have 10"):
    task()
  config.class_weights = ()
  config.augment.cutout = 9
  with pytest.raises(ConfigError, match="cutout=9 must be at most 8, the long"):
    task()
  config.augment.cutout = 8
  task()
  config.augment.mixup, config.augment.mix_per_peer = 0.2, True
  with pytest.raises(ConfigError, match="mix_per_peer=True: this method"):
    task()
