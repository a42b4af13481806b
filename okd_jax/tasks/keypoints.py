"""Keypoints: the places of a figure's joints, by one heat map for each."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np

from okd_jax.core import Array, Batch
from okd_jax.data.augment import denormalize, normalize
from okd_jax.data.info import DataInfo
from okd_jax.data.keypoints.figures import Joints
from okd_jax.data.keypoints.info import Pairs
from okd_jax.devices.mesh import DATA
from okd_jax.errors import ConfigError
from okd_jax.tasks import (
  keypoint_augment,
  keypoint_batches,
  keypoint_figures,
  keypoint_maps as maps_lib,
  keypoint_metrics,
  task,
)
from okd_jax.tasks.measure import Measure
from okd_jax.tasks.task import Rows

# Of the figure that the published code shows in training: distances are in
# tenths of a map's sides, and half of one is near.
_TENTHS, _NEAR = 10, 0.5


@dataclasses.dataclass(frozen=True)
class Task(task.Task):
  """Finds joints.

  In batches of a source the target is `Joints`, and images are uint8 crops with
  the margin of `KeypointInfo`; networks and methods get normalised floats
  [B, H, W, c] and {"maps": float [B, h, w, J], "weight": float [B, J]}, where
  the weight is 0 for joints that are not labelled or not in the crop. Batches
  that hold these already are passed on.

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
  def of_maps(
    cls,
    num_joints: int,
    image_shape: tuple[int, int, int],
    *,
    pairs: Pairs | None = None,
    image_dtype: Any = jnp.float32,
  ) -> "Task":
    """A task for batches that hold what networks and methods get.

    It has no figures, which are in units of the picture.

    Args:
      num_joints: number J of joints.
      image_shape: (height, width, channels), multiples of 4 in height and
        width.
      pairs: pairs of joints that change places when a picture is mirrored, if
        predictions should be means over the image and its mirror image.
      image_dtype: dtype of the images that networks see.

    Raises:
      ConfigError: if maps do not fit the images, or a pair is none of joints.
    """
    info = keypoint_batches.info_of_maps(num_joints, image_shape, pairs)
    return cls(info, image_dtype)

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
    return keypoint_batches.maps_shape(self.info)

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
    if keypoint_batches.are_ready(batch, self.info):
      return self._cast(batch)
    change = functools.partial(keypoint_augment.change, info=self.info)
    # The random numbers of an example follow from its place in the whole batch.
    split = PartitionSpec(DATA)
    crop, points, visible = jax.shard_map(
      jax.vmap(change, in_axes=(0, 0, 0, None, 0)),
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
    image = self.normalize_floats(crop)
    return dataclasses.replace(
      batch, image=image, target=self._targets(points, visible)
    )

  def normalize(self, batch):
    if keypoint_batches.are_ready(batch, self.info):
      return self._cast(batch)
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
    keypoint_batches.require_joints(batch)
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
    keypoint_batches.require_joints(batch)
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
    keypoint_batches.require_joints(batch)
    # Pillow is no part of the base install.
    from okd_jax.tasks import keypoint_drawing

    points, peak = maps_lib.decode(logits)
    sure = np.asarray(peak) > keypoint_metrics.SURE
    drawn = [
      keypoint_drawing.compare(*each, self._known.bones)
      for each in zip(
        denormalize(self.normalize(batch).image, self.info),
        np.asarray(batch.target.points),
        np.asarray(batch.target.visible),
        keypoint_batches.STRIDE * np.asarray(points),
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
    from okd_jax.tasks import keypoint_answers

    return keypoint_answers.Asking(card, boxes)

  @property
  def _known(self):
    return self.info.of_keypoints

  @property
  def _size(self) -> maps_lib.Size:
    height, width, _ = self.info.image_shape
    return width, height

  def _cast(self, batch: Batch) -> Batch:
    image = jnp.asarray(batch.image, self.image_dtype)
    return dataclasses.replace(batch, image=image)

  def _targets(self, points: Array, visible: Array) -> Mapping[str, Array]:
    height, width, _ = self.out_shape()
    maps, weight = maps_lib.heat_maps(
      points, visible, self._size, (width, height), self._known.sigma
    )
    return {"maps": maps, "weight": weight}
