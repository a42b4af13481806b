"""Batches of keypoints: as sources give them, and as networks get them."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from okd_jax.core import Batch
from okd_jax.data.info import DataInfo
from okd_jax.data.keypoints.figures import Joints
from okd_jax.data.keypoints.info import KeypointInfo, Pairs
from okd_jax.errors import ConfigError

# Heat maps are that much smaller than images.
STRIDE = 4


def maps_shape(info: DataInfo) -> tuple[int, int, int]:
  """Shape [h, w, J] of the heat maps of one image."""
  height, width = info.image_shape[:2]
  return height // STRIDE, width // STRIDE, info.num_classes


def are_ready(batch: Batch, info: DataInfo) -> bool:
  """Whether a batch holds what networks get, and not what sources give.

  Raises:
    ConfigError: if it holds neither.
  """
  image, target = batch.image, batch.target
  shapes: Any = type(target).__name__
  height, width, channels = info.image_shape
  across, down = info.of_keypoints.margin
  window = (height + 2 * down, width + 2 * across, channels)
  maps = maps_shape(info)
  if isinstance(target, Joints):
    if image.dtype == jnp.uint8 and image.shape[1:] == window:
      return False
  elif isinstance(target, Mapping):
    shapes = {name: jnp.shape(value)[1:] for name, value in target.items()}
    floats = jnp.issubdtype(image.dtype, jnp.floating)
    if floats and (image.shape[1:], shapes) == (
      info.image_shape,
      {"maps": maps, "weight": maps[2:]},
    ):
      return True
  raise ConfigError(
    f"a batch of keypoints has uint8 images [B, {_list(window)}] and Joints, "
    f"or floats [B, {_list(info.image_shape)}] and a target of 'maps' "
    f"[B, {_list(maps)}] and 'weight' [B, {maps[2]}]; got {image.dtype} images "
    f"[B, {_list(image.shape[1:])}] and a target of {shapes}."
  )


def require_joints(batch: Batch) -> None:
  """Raises ConfigError if a batch lacks what figures need."""
  if not isinstance(batch.target, Joints):
    raise ConfigError(
      "figures of keypoints are in units of the picture, which heat maps do "
      "not tell; give batches of uint8 images and Joints, or compute your own "
      "from the result of okd_jax.training.predict."
    )


def info_of_maps(
  num_joints: int, image_shape: tuple[int, int, int], pairs: Pairs | None
) -> DataInfo:
  """What must be known of batches that are ready for networks.

  Raises:
    ConfigError: if maps do not fit the images, or a pair is none of joints.
  """
  shape: Any = tuple(image_shape)
  if len(shape) != 3 or any(side < 1 or side % STRIDE for side in shape[:2]):
    raise ConfigError(
      f"image_shape={image_shape} must be (height, width, channels) with "
      f"multiples of {STRIDE} for height and width, as heat maps are that much "
      "smaller."
    )
  if num_joints < 1:
    raise ConfigError(f"num_joints={num_joints} must be at least 1.")
  if any(
    np.shape(pair) != (2,) or min(pair) < 0 or max(pair) >= num_joints
    for pair in pairs or ()
  ):
    raise ConfigError(
      f"pairs={pairs} must be pairs of the {num_joints} joints, counted from "
      "0, such as ((1, 2),)."
    )
  channels = shape[2]
  return DataInfo(
    name="heat maps",
    num_classes=num_joints,
    image_shape=shape,
    mean=(0.0,) * channels,
    std=(1.0,) * channels,
    pad=0,
    flip=pairs is not None,
    num_train=0,
    num_test=0,
    class_names=tuple(map(str, range(num_joints))),
    task="keypoints",
    keypoints=KeypointInfo(
      pairs=tuple((one, other) for one, other in pairs or ()),
      bones=(),
      sigmas=(),
    ),
  )


def _list(shape: tuple[int, ...]) -> str:
  return ", ".join(map(str, shape))
