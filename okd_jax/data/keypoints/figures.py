"""Figures with joints: as loaders read them, and as arrays."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from flax import struct
import numpy as np

from okd_jax.data.keypoints import boxes
from okd_jax.storage.paths import Path

# Head boxes are larger than heads.
HEAD_SHARE = 0.6


@dataclasses.dataclass(frozen=True)
class Figure:
  """One figure, in pixels of its picture, of which the first is (0, 0).

  Attributes:
    picture: its file.
    image_id: a number of its own for every picture.
    joints: float [J, 2].
    visible: int [J]; 0 not labelled, 1 labelled but hidden, 2 visible.
    box: (x, y, w, h).
    center: of the crop, (x, y).
    scale: of the crop's width in units of 200 pixels.
    area: of the figure, for OKS.
    head_box: two corners [2, 2]; None where it is not known.
    size: (width, height) of the picture, likewise.
    score: how sure it is that a figure is there; nan where a detector was
      asked, and this is not what it found.
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


@struct.dataclass
class Joints:
  """What is known of N figures.

  Attributes:
    points: float32 [N, J, 2], in pixels of the upright crop.
    visible: int32 [N, J], as of `Figure`.
    center: float32 [N, 2], likewise.
    scale: float32 [N], likewise.
    head: float32 [N], size of the head in pixels of the picture; nan where it
      is not known.
    torso: float32 [N], from left hip to right shoulder, or the longer side of
      the box.
    box: float32 [N, 4], likewise.
    area: float32 [N], likewise.
    image_id: int32 [N], likewise.
    score: float32 [N], likewise.
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


def to_arrays(
  figures: Sequence[Figure],
  num_joints: int,
  size: boxes.Size,
  torso: Sequence[int],
) -> Joints:
  """Joints of figures, for crops of (width, height).

  Args:
    figures: N of them.
    num_joints: J.
    size: of the crops.
    torso: left hip and right shoulder, or ().
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
    **{name: np.asarray(values, np.float32) for name, values in wide.items()},
  )


def torso_length(figure: Figure, torso: Sequence[int]) -> float:
  """From left hip to right shoulder; without them the box's longer side."""
  if torso and all(figure.visible[joint] for joint in torso):
    hip, shoulder = (figure.joints[joint] for joint in torso)
    if (length := float(np.linalg.norm(hip - shoulder))) > 0:
      return length
  return float(max(figure.box[2:]))
