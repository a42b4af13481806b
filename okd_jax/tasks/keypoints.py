"""Keypoints: the places of a figure's joints, by one heat map for each."""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np

from okd_jax.core import Array, Batch
from okd_jax.data.augment import denormalize, normalize
from okd_jax.data.info import DataInfo
from okd_jax.data.keypoints.figures import Joints
from okd_jax.data.keypoints.info import TURNED
from okd_jax.devices.mesh import DATA
from okd_jax.errors import ConfigError
from okd_jax.tasks import (
  keypoint_answers,
  keypoint_drawing,
  keypoint_figures,
  keypoint_maps as maps_lib,
  keypoint_metrics,
  task,
)
from okd_jax.tasks.measure import Measure
from okd_jax.tasks.task import Rows

# Heat maps are that much smaller than images.
STRIDE = 4
# Of the figure that the published code shows in training: distances are in
# tenths of a map's sides, and half of one is near.
_TENTHS, _NEAR = 10, 0.5


@dataclasses.dataclass(frozen=True)
class Task(task.Task):
  """Finds joints.

  In batches of a source the target is `Joints`; networks and methods get
  {"maps": float [B, h, w, J], "weight": float [B, J]}, where the weight is 0
  for joints that are not labelled or not in the crop.

  Attributes:
    info: facts about the data set.
    image_dtype: dtype of the images that networks see.
  """

  name: ClassVar[str] = "keypoints"
  measures: ClassVar[tuple[Measure, ...]] = keypoint_figures.MEASURES
  classes_are: ClassVar[str] = "joints"
  num_pictures: ClassVar[int] = 8
  step_measure: ClassVar[Measure | None] = Measure(
    "map_accuracy", "accuracy of maps"
  )

  info: DataInfo
  image_dtype: Any = jnp.float32

  @classmethod
  def headline(cls, info=None):
    return keypoint_figures.headline(info)

  @classmethod
  def measures_of(cls, info=None):
    return keypoint_figures.of(info)

  @classmethod
  def of(cls, info, *, pad_mode="constant", image_dtype=jnp.float32):
    del pad_mode
    return cls(info, image_dtype)

  def out_shape(self):
    height, width = self.info.image_shape[:2]
    return (height // STRIDE, width // STRIDE, self.info.num_classes)

  def blank(self, size):
    num_joints = self.info.num_classes
    return Batch(
      image=jnp.zeros((size, *self.info.image_shape), self.image_dtype),
      target={
        "maps": jnp.zeros((size, *self.out_shape())),
        "weight": jnp.ones((size, num_joints)),
      },
      index=jnp.zeros(size, jnp.int32),
      mask=jnp.ones(size, bool),
    )

  def augment(self, batch, key, *, num_views, mesh):
    if num_views is not None:
      raise ConfigError(
        "a method that gives every peer a view of its own is not for keypoints,"
        " where a view has targets of its own; choose another method."
      )
    # The random numbers of an example follow from its place in the whole batch.
    split = PartitionSpec(DATA)
    image, points, visible = jax.shard_map(
      jax.vmap(self._augment_one, in_axes=(0, 0, 0, None, 0)),
      mesh=mesh,
      in_specs=(split, split, split, PartitionSpec(), split),
      out_specs=split,
    )(
      batch.image,
      batch.target.points,
      batch.target.visible,
      key,
      jnp.arange(len(batch.image)),
    )
    return dataclasses.replace(
      batch, image=image, target=self._targets(points, visible)
    )

  def normalize(self, batch):
    (across, down), (width, height) = self._known.margin, self._size
    crop = batch.image[:, down : down + height, across : across + width]
    return dataclasses.replace(
      batch,
      image=normalize(crop, self.info, self.image_dtype),
      target=self._targets(batch.target.points, batch.target.visible),
    )

  def normalize_floats(self, images):
    mean, std = (jnp.asarray(x) for x in (self.info.mean, self.info.std))
    return ((images - mean) / std).astype(self.image_dtype)

  def test_views(self, batch):
    if not self.info.flip:
      return (batch,)
    mirrored = dataclasses.replace(batch, image=batch.image[:, :, ::-1])
    return (batch, mirrored)

  def merge_views(self, logits):
    if len(logits) == 1:
      return logits[0]
    maps, mirrored = logits
    return maps_lib.merge_mirrored(maps, mirrored, self._known.pairs)

  def references(self, batch):
    """The mean pose of training, and the targets themselves."""
    known = self._known
    exact = self._targets(batch.target.points, batch.target.visible)["maps"]
    pose = jnp.asarray(known.mean_pose, exact.dtype)
    mean = self._targets(pose, jnp.ones(len(pose)))["maps"]
    return {
      "mean_pose": jnp.broadcast_to(mean, exact.shape),
      "exact_targets": exact,
    }

  def headline_in_step(self, logits, batch):
    """Share of peaks near the target's, over all joints together.

    The published code shows the mean over joints instead.
    """
    found, _ = maps_lib.peaks(logits)
    truth, _ = maps_lib.peaks(batch.target["maps"])
    height, width, _ = self.out_shape()
    gap = (found - truth) * _TENTHS / jnp.array([width, height])
    near = jnp.linalg.norm(gap, axis=-1) <= _NEAR
    # As there: targets at the border are left out.
    counts = (batch.target["weight"] > 0) & jnp.all(truth > 1, -1)
    hits = jnp.sum(near & counts, (-2, -1))
    return hits / jnp.maximum(jnp.sum(counts), 1)

  def measure(self, logits, batch):
    leading = logits.shape[:-4]
    joints: Joints = batch.target
    scale = jnp.stack([joints.scale, joints.scale], -1)
    points, peak = maps_lib.decode_to_image(logits, joints.center, scale)
    width, height = self._size
    middle = maps_lib.image_matrix(joints.center, scale, 0.0, (width, height))
    known = {
      "truth": maps_lib.transform(middle, joints.points),
      "visible": joints.visible,
      "head": joints.head,
      "torso": joints.torso,
      "box": joints.box,
      "area": joints.area,
      "crop_area": jnp.square(maps_lib.SCALE_UNIT * joints.scale)
      * (height / width),
      "image_id": joints.image_id,
      "score": joints.score,
      "beside": joints.beside,
      "mask": batch.mask,
    }
    rows = {
      name: jnp.broadcast_to(value, (*leading, *value.shape))
      for name, value in known.items()
    }
    return Rows(rows | {"points": points, "peak": peak}, len(leading))

  def figures(self, sums):
    mask = sums.values["mask"]
    rows = {name: value[mask] for name, value in sums.values.items()}
    return keypoint_figures.measured(rows, self._known)

  def combine(self, logits):
    return jnp.mean(logits, 0)

  def diversity_sum(self, logits, batch):
    """Mean distance between the joints of two members, in pixels of a map."""
    if logits.shape[0] < 2:
      return jnp.zeros((), logits.dtype)
    points, _ = maps_lib.decode(logits)
    gap = jnp.linalg.norm(points[:, None] - points[None], axis=-1)
    pairs = len(points) * (len(points) - 1)
    each = jnp.sum(jnp.mean(gap, -1), (0, 1)) / pairs
    return jnp.sum(jnp.where(batch.mask, each, 0))

  def pictures(self, batch, logits):
    points, peak = maps_lib.decode(logits)
    sure = np.asarray(peak) > keypoint_metrics.SURE
    drawn = [
      keypoint_drawing.compare(*each, self._known.bones)
      for each in zip(
        denormalize(self.normalize(batch).image, self.info),
        np.asarray(batch.target.points),
        np.asarray(batch.target.visible),
        STRIDE * np.asarray(points),
        np.where(sure, 2, 1),
        strict=True,
      )
    ]
    return {"figures": keypoint_drawing.sheet(drawn, 4)}

  @classmethod
  def card(cls, info):
    return {
      "joints": list(info.class_names),
      "keypoints": dataclasses.asdict(info.of_keypoints),
      "flip": info.flip,
      "output": "float32 [batch, height / 4, width / 4, joints], heat maps",
    }

  @classmethod
  def asking(cls, card, *, top=5, boxes=None):
    del top
    return keypoint_answers.Asking(card, boxes)

  @property
  def _known(self):
    return self.info.of_keypoints

  @property
  def _size(self) -> maps_lib.Size:
    height, width, _ = self.info.image_shape
    return width, height

  def _targets(self, points: Array, visible: Array) -> Mapping[str, Array]:
    height, width, _ = self.out_shape()
    maps, weight = maps_lib.heat_maps(
      points, visible, self._size, (width, height), self._known.sigma
    )
    return {"maps": maps, "weight": weight}

  def _augment_one(
    self,
    image: Array,
    points: Array,
    visible: Array,
    key: Array,
    slot: Array,
  ) -> tuple[Array, Array, Array]:
    """The crop and the joints of one figure, zoomed, turned and mirrored."""
    known, (width, height) = self._known, self._size
    normal_key, uniform_key = jax.random.split(jax.random.fold_in(key, slot))
    zoom, turn = jax.random.normal(normal_key, (2,))
    turned, mirrored = jax.random.uniform(uniform_key, (2,))
    factor = jnp.clip(1 + known.scale * zoom, 1 - known.scale, 1 + known.scale)
    most = 2 * known.rotation
    angle = jnp.clip(known.rotation * turn, -most, most)
    angle = jnp.where(turned < TURNED, angle, 0)
    flip = (mirrored < 0.5) & self.info.flip
    middle = jnp.array([width / 2, height / 2])
    scale = jnp.full(2, factor * width / maps_lib.SCALE_UNIT)
    # Mirrored about the crop's middle, which has no pixel at its place.
    swapped = maps_lib.flip_joints(points, visible, width + 1, known.pairs)
    points, visible = (
      jnp.where(flip, a, b)
      for a, b in zip(swapped, (points, visible), strict=True)
    )
    forward = maps_lib.crop_matrix(middle, scale, angle, (width, height))
    back = maps_lib.image_matrix(middle, scale, angle, (width, height))
    across = jnp.where(flip, jnp.array([0, 0, width]) - back[0], back[0])
    margin = jnp.array(known.margin, back.dtype)
    source = jnp.stack([across, back[1]]).at[:, 2].add(margin)
    crop = maps_lib.warp(image, source, (width, height)) / 255
    return (
      self.normalize_floats(crop),
      maps_lib.transform(forward, points),
      visible,
    )
