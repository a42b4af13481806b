"""The task of keypoints: targets from joints, figures from heat maps."""

import dataclasses
import functools
import json

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax import core, tasks
from okd_jax.data.augmentation import Augment
from okd_jax.data.info import DataInfo
from okd_jax.data.keypoints.figures import Joints
from okd_jax.data.keypoints.info import KeypointInfo, margin
from okd_jax.devices.mesh import make_mesh
from okd_jax.errors import ConfigError
from okd_jax.tasks import keypoint_maps, keypoints
from okd_jax.tasks.task import total

WIDTH, HEIGHT, J = 48, 64, 4
KNOWN = KeypointInfo(
  pairs=((1, 2),),
  bones=(),
  sigmas=(0.1,) * J,
  head_boxes=True,
  mean_pose=((8.0, 8.0),) * J,
  margin=margin((WIDTH, HEIGHT), 0.2, 30),
  scale=0.2,
  rotation=30.0,
  sigma=1.0,
)
INFO = DataInfo(
  name="toy",
  num_classes=J,
  image_shape=(HEIGHT, WIDTH, 3),
  mean=(0.5, 0.5, 0.5),
  std=(0.25, 0.25, 0.25),
  pad=0,
  flip=True,
  num_train=8,
  num_test=8,
  class_names=tuple("abcd"),
  task="keypoints",
  keypoints=KNOWN,
)


def task(**changes):
  info = dataclasses.replace(INFO, **changes)
  return tasks.load(info.task).of(info)


def batch(size=8, seed=0):
  """Figures with a bright blot of its own colour at every joint."""
  rng = np.random.default_rng(seed)
  points = rng.uniform(14, WIDTH - 14, (size, J, 2))
  across, down = KNOWN.margin
  rows, columns = np.mgrid[: HEIGHT + 2 * down, : WIDTH + 2 * across]
  image = np.zeros((size, *rows.shape, 3), np.uint8)
  for i in range(size):
    # One joint a channel; the last is drawn nowhere.
    for j in range(3):
      x, y = points[i, j] + KNOWN.margin
      far = (columns - x) ** 2 + (rows - y) ** 2
      image[i, ..., j] = np.rint(255 * np.exp(-far / 8))
  visible = np.full((size, J), 2, np.int32)
  visible[0, 0] = 0
  ones = jnp.ones(size)
  scale = jnp.asarray(rng.uniform(0.3, 2, size), jnp.float32)
  # Pixels of the picture for one of the crop.
  step = 200 * scale / WIDTH
  joints = Joints(
    points=jnp.asarray(points, jnp.float32),
    visible=jnp.asarray(visible),
    center=jnp.asarray(rng.uniform(20, 300, (size, 2)), jnp.float32),
    scale=scale,
    head=15 * step,
    torso=30 * step,
    box=jnp.asarray(rng.uniform(20, 90, (size, 4)), jnp.float32),
    area=1000 * step**2,
    image_id=jnp.arange(size),
    score=ones,
    beside=jnp.zeros((size, 0, 6)),
  )
  return core.Batch(jnp.asarray(image), joints, jnp.arange(size), ones > 0)


def centers(image):
  """Where each channel is bright, [B, 3, 2]."""
  weight = np.asarray(image, float) * 0.25 + 0.5
  weight = np.where(weight > 0.2, weight, 0)
  rows, columns = np.mgrid[:HEIGHT, :WIDTH]
  total = weight.sum((1, 2))
  return np.stack(
    [
      (weight * columns[..., None]).sum((1, 2)) / total,
      (weight * rows[..., None]).sum((1, 2)) / total,
    ],
    axis=-1,
  )


@pytest.mark.parametrize("flip", [True, False])
def test_joints_move_with_their_picture(flip):
  """Peaks of heat maps are where the augmented picture has its blots."""
  given = batch(16)
  mesh = make_mesh(2, 1)
  made = golden.jit_once(
    lambda b, key: task(flip=flip).augment(b, key, num_views=None, mesh=mesh)
  )(given, jax.random.key(3))
  assert made.image.shape == (16, HEIGHT, WIDTH, 3)
  maps, weight = made.target["maps"], np.asarray(made.target["weight"])
  assert maps.shape == (16, HEIGHT // 4, WIDTH // 4, J)
  seen = centers(made.image)
  peaks = 4 * np.asarray(keypoint_maps.decode(maps)[0])
  mirrored = 0
  for i in range(1, 16):
    gap = np.abs(peaks[i, :3] - seen[i]).max(-1)
    # In the mirror the second joint is the third: channels 1 and 2 swap.
    swapped = np.abs(peaks[i, [0, 2, 1]] - seen[i]).max(-1)
    inside = np.all((seen[i] > 8) & (seen[i] < [WIDTH - 8, HEIGHT - 8]), -1)
    other = swapped[inside].max(initial=0) < gap[inside].max(initial=0)
    mirrored += other
    # A quarter of the size, rounded: at most half of four pixels.
    assert (swapped if other else gap)[inside].max(initial=0) < 2.6
  assert 2 < mirrored < 14 if flip else mirrored == 0
  assert weight[0, 0] == 0 and not np.asarray(maps)[0, ..., 0].any()
  assert np.ptp(np.asarray(seen) - np.asarray(given.target.points[:, :3])) > 5


def test_augmentation_depends_on_key_and_place_alone():
  given, once = batch(), task()
  key = jax.random.key(0)

  @functools.partial(golden.jit_once, static_argnums=1)
  def augmented(key, devices):
    mesh = make_mesh(devices, 1)
    return once.augment(given, key, num_views=None, mesh=mesh).image

  one, two = augmented(key, 1), augmented(key, 4)
  np.testing.assert_allclose(one, two, atol=1e-6)
  assert np.abs(one - augmented(jax.random.key(1), 1)).max() > 0.1
  with pytest.raises(ConfigError, match="not for keypoints"):
    once.augment(given, key, num_views=2, mesh=make_mesh(1, 1))


def test_evaluation_sees_the_middle():
  given = batch()
  seen = task().normalize(given)
  across, down = KNOWN.margin
  middle = np.asarray(given.image)[
    :, down : down + HEIGHT, across : across + WIDTH
  ]
  np.testing.assert_allclose(seen.image, (middle / 255 - 0.5) / 0.25, atol=1e-5)


def test_exact_targets_are_found_and_the_mean_pose_is_not():
  made, parts = task(), []

  @golden.jit_once
  def both(given):
    known = made.references(given)
    return known, {name: made.measure(m, given) for name, m in known.items()}

  for seed in (0, 1):
    given = batch(seed=seed)
    given = dataclasses.replace(given, mask=jnp.arange(8) < 8 - seed)
    known, measured = both(given)
    parts.append(measured)
  sums = total(parts)
  # Fifteen examples that are not padding.
  assert sums["exact_targets"].values["mask"].sum() == 15
  exact, mean = (made.figures(sums[n]) for n in ("exact_targets", "mean_pose"))
  assert exact["pck"] == 1 and mean["pck"] < 0.9
  assert exact["ap"] > 0.9 > mean["ap"]
  assert exact["pckh"] > mean["pckh"]
  for changes in ({}, {"head_boxes": False}, {"sigmas": ()}):
    other = task(keypoints=dataclasses.replace(KNOWN, **changes))
    named = [measure.name for measure in other.measures_of(other.info)]
    assert sorted(other.figures(sums["exact_targets"])) == sorted(named)
  by_peer = made.measure(jnp.stack([known["exact_targets"]] * 2), given)
  assert by_peer.axis == 1 and by_peer.values["truth"].shape == (2, 8, J, 2)


def test_figures_are_in_pixels_of_the_picture():
  given = batch(2)
  made = task()
  rows = made.measure(made.references(given)["exact_targets"], given).values
  zoom = WIDTH / (200 * np.asarray(given.target.scale))
  back = np.asarray(given.target.points) - [WIDTH / 2, HEIGHT / 2]
  back = back / zoom[:, None, None] + np.asarray(given.target.center)[:, None]
  np.testing.assert_allclose(rows["truth"], back, rtol=1e-4)
  gap = np.linalg.norm(rows["points"] - back, axis=-1) * zoom[:, None]
  assert gap[:, 1:].max() < 3.6


def test_both_views_are_merged():
  made = task()
  given = made.normalize(batch())
  views = made.test_views(given)
  np.testing.assert_array_equal(views[1].image, given.image[:, :, ::-1])
  maps = jnp.asarray(np.random.default_rng(0).random((8, 16, 12, J)))
  mirrored = maps[:, :, ::-1][..., jnp.array([0, 2, 1, 3])]
  # Nothing is shifted by hand: the first column stays, the others move.
  merged = made.merge_views((maps, mirrored))
  np.testing.assert_allclose(merged[:, :, 0], maps[:, :, 0], rtol=1e-6)
  np.testing.assert_allclose(
    merged[:, :, 1:], (maps[:, :, 1:] + maps[:, :, :-1]) / 2, rtol=1e-6
  )
  assert len(task(flip=False).test_views(given)) == 1


def test_the_headline_follows_the_data():
  load = keypoints.Task
  assert load.headline(INFO).name == "pckh"
  for changes, name in (
    ({"head_boxes": False}, "pck"),
    ({"head_boxes": False, "official_sigmas": True}, "ap"),
  ):
    known = dataclasses.replace(KNOWN, **changes)
    info = dataclasses.replace(INFO, keypoints=known)
    assert load.headline(info).name == name
  assert load.in_step(INFO).name == "map_accuracy"
  of_mpii = dataclasses.replace(KNOWN, mpii=True)
  info = dataclasses.replace(INFO, keypoints=of_mpii)
  more = {*load.measures_of(info)} - {*load.measures_of(INFO)}
  assert {measure.name for measure in more} >= {"pckh_head", "pckh_ankle"}


def test_accuracy_of_maps_in_a_step():
  made = task()
  given = made.normalize(batch())
  maps = given.target["maps"]
  far = jnp.roll(maps, 4, axis=2)
  accuracy = made.headline_in_step(jnp.stack([maps, far]), given)
  np.testing.assert_allclose(accuracy, [1, 0], atol=0.05)


def test_changes_of_classes_are_refused():
  with pytest.raises(ConfigError, match="'keypoints', which config.augment"):
    task().changed(Augment(cutout=4), 0.0, ())


def test_facts_survive_a_file():
  saved = dataclasses.asdict(INFO)

  assert DataInfo.of_json(json.loads(json.dumps(saved))) == INFO
