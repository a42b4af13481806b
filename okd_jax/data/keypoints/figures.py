"""Figures with joints, as loaders read them and as arrays."""

import collections
from collections.abc import Sequence
import dataclasses
from typing import Any

from flax import struct
import numpy as np

from okd_jax.data.keypoints import beside as beside_lib, boxes
from okd_jax.storage.paths import Path

# Head boxes are larger than heads.
HEAD_SHARE = 0.6


@dataclasses.dataclass(frozen=True)
class Figure:
  """One figure, in pixels of its picture, where the first pixel is (0, 0).

  Attributes:
    picture: file of the picture.
    image_id: number of the picture, different for every picture.
    joints: float [J, 2].
    visible: int [J]; 0 not labelled, 1 labelled but hidden, 2 visible.
    box: (x, y, w, h), not padded.
    center: centre of the crop, (x, y).
    scale: width of the crop in units of 200 pixels.
    area: area of the figure, for OKS.
    head_box: box of the head, two corners [2, 2]; None if it is not known.
    size: (width, height) of the picture; None if it is not known.
    score: confidence that there is a figure; nan if boxes of a detector are
      used and this figure is not one of them.
    beside: its part of the annotations that do not count in its picture.
  """

  picture: Path
  image_id: int
  joints: np.ndarray
  visible: np.ndarray
  box: np.ndarray
  center: np.ndarray
  scale: float
  area: float
  head_box: np.ndarray | None = None
  size: boxes.Size | None = None
  score: float = 1.0
  beside: tuple[beside_lib.Beside, ...] = ()


@struct.dataclass
class Joints:
  """What is known of N figures.

  Attributes:
    points: float32 [N, J, 2], in pixels of the upright crop.
    visible: int32 [N, J], as in `Figure`.
    center: float32 [N, 2], as in `Figure`.
    scale: float32 [N], as in `Figure`.
    head: float32 [N], size of the head in pixels of the picture; nan where it
      is not known.
    torso: float32 [N], distance from left hip to right shoulder, or the longer
      side of the box.
    box: float32 [N, 4], as in `Figure`.
    area: float32 [N], as in `Figure`.
    image_id: int32 [N], as in `Figure`.
    score: float32 [N], as in `Figure`.
    beside: float32 [N, K, 6], as in `Figure`: x, y, w, h, area and whether it
      is a group; nan where there is none.
  """

  points: Any
  visible: Any
  center: Any
  scale: Any
  head: Any
  torso: Any
  box: Any
  area: Any
  image_id: Any
  score: Any
  beside: Any


def with_beside(
  figures: Sequence[Figure], annotations: Sequence[beside_lib.Beside]
) -> tuple[Figure, ...]:
  """Figures with the annotations that do not count in their pictures.

  The k-th of a picture goes to its figure k modulo their number, so that none
  has many. One in a picture without a figure is lost, and of no effect.
  """
  places = collections.defaultdict(list)
  for place, figure in enumerate(figures):
    places[figure.image_id].append(place)
  parts: list[list[beside_lib.Beside]] = [[] for _ in figures]
  for each in annotations:
    if turn := places[each.image_id]:
      parts[turn[0]].append(each)
      turn.append(turn.pop(0))
  return tuple(
    dataclasses.replace(figure, beside=tuple(part))
    for figure, part in zip(figures, parts, strict=True)
  )


def to_arrays(
  figures: Sequence[Figure],
  num_joints: int,
  size: boxes.Size,
  torso: Sequence[int],
) -> Joints:
  """Joints of figures, for crops of (width, height).

  Args:
    figures: the N figures.
    num_joints: number J of joints.
    size: (width, height) of the crops.
    torso: indices of left hip and right shoulder, or ().
  """
  count = len(figures)

  def array(name: str, *shape: int) -> np.ndarray:
    values = [getattr(figure, name) for figure in figures]
    return np.array(values, float).reshape(count, *shape)

  center, scale = array("center", 2), array("scale")
  joints = array("joints", num_joints, 2)
  visible = array("visible", num_joints).astype(np.int32)
  zoom = size[0] / (boxes.SCALE_UNIT * scale)
  points = (joints - center[:, None]) * zoom[:, None, None]
  points += np.array(size) / 2
  # Where nothing is labelled, files have any number.
  points[visible == 0] = 0
  heads = [
    np.nan
    if figure.head_box is None
    else HEAD_SHARE * np.linalg.norm(figure.head_box[1] - figure.head_box[0])
    for figure in figures
  ]
  wide = {
    "points": points,
    "center": center,
    "scale": scale,
    "head": heads,
    "torso": [torso_length(figure, torso) for figure in figures],
    "box": array("box", 4),
    "area": array("area"),
    "score": array("score"),
  }
  return Joints(
    visible=visible,
    image_id=array("image_id").astype(np.int32),
    beside=beside_lib.to_array([figure.beside for figure in figures]),
    **{name: np.asarray(values, np.float32) for name, values in wide.items()},
  )


def torso_length(figure: Figure, torso: Sequence[int]) -> float:
  """Length from left hip to right shoulder, or the longer side of the box."""
  if torso and all(figure.visible[joint] for joint in torso):
    hip, shoulder = (figure.joints[joint] for joint in torso)
    if (length := float(np.linalg.norm(hip - shoulder))) > 0:
      return length
  return float(max(figure.box[2:]))
