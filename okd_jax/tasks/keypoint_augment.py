"""Random changes of a figure: zoomed, turned and mirrored."""

import jax
import jax.numpy as jnp

from okd_jax.core import Array
from okd_jax.data.info import DataInfo
from okd_jax.data.keypoints.info import TURNED
from okd_jax.tasks import keypoint_maps as maps_lib


def change(
  window: Array,
  points: Array,
  visible: Array,
  key: Array,
  slot: Array,
  *,
  info: DataInfo,
) -> tuple[Array, Array, Array]:
  """Crops one figure from its window, with its joints.

  Args:
    window: uint8, the crop with its margin.
    points: joints [J, 2], in pixels of the crop.
    visible: int [J], as in `Joints`.
    key: random key of the step.
    slot: place of the example in the whole batch.
    info: facts about the data set.

  Returns:
    The crop, floats in [0, 1], and `points` and `visible` in it.
  """
  known = info.of_keypoints
  height, width = info.image_shape[:2]
  normal_key, uniform_key = jax.random.split(jax.random.fold_in(key, slot))
  zoom, turn = jax.random.normal(normal_key, (2,))
  turned, mirrored = jax.random.uniform(uniform_key, (2,))
  factor = jnp.clip(1 + known.scale * zoom, 1 - known.scale, 1 + known.scale)
  most = 2 * known.rotation
  angle = jnp.clip(known.rotation * turn, -most, most)
  angle = jnp.where(turned < TURNED, angle, 0)
  flip = (mirrored < 0.5) & info.flip
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
  crop = maps_lib.warp(window, source, (width, height)) / 255
  return crop, maps_lib.transform(forward, points), visible
