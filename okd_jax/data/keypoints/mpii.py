"""MPII Human Pose, in the JSON of the published code.

ROOT/images/*.jpg
ROOT/annot/train.json, ROOT/annot/valid.json, ROOT/annot/gt_valid.mat
"""

from collections.abc import Sequence
import dataclasses
import json
from typing import Any

import numpy as np

from okd_jax.data.keypoints import boxes
from okd_jax.data.keypoints.figures import Figure
from okd_jax.data.keypoints.info import KeypointInfo
from okd_jax.data.keypoints.own import Set
from okd_jax.errors import DataError, OkdError
from okd_jax.storage import files
from okd_jax.storage.paths import Path

NAMES = (
  "right_ankle",
  "right_knee",
  "right_hip",
  "left_hip",
  "left_knee",
  "left_ankle",
  "pelvis",
  "thorax",
  "upper_neck",
  "head_top",
  "right_wrist",
  "right_elbow",
  "right_shoulder",
  "left_shoulder",
  "left_elbow",
  "left_wrist",
)
INFO = KeypointInfo(
  pairs=((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)),
  bones=(
    *((0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8)),
    *((8, 9), (10, 11), (11, 12), (12, 7), (7, 13), (13, 14), (14, 15)),
  ),
  # MPII publishes none, and no areas, so there is no OKS.
  sigmas=(),
  torso=(3, 12),
  mpii=True,
)


def read(root: Path) -> Set:
  """Reads the annotations; the publisher's validation split is the test split.

  Raises:
    DataError: naming the file and the rule that it breaks.
  """
  annotations = root / "annot"
  heads = annotations / "gt_valid.mat"
  train = _figures(annotations / "train.json", root / "images")
  test = _figures(annotations / "valid.json", root / "images")
  notes = ["MPII may be used for research only; its files must not be shared."]
  info = INFO
  if files.Look().has(heads):
    test = _with_heads(heads, test)
    info = dataclasses.replace(INFO, head_boxes=True)
  else:
    notes.append(
      f"{heads} is not there, so the size of heads is not known and there is "
      "no PCKh."
    )
  return Set(
    NAMES, info, {"train": train, "test": test}, tuple(notes), exif=False
  )


def _figures(path: Path, pictures: Path) -> list[Figure]:
  try:
    entries = json.loads(files.content(path))
    numbers: dict[str, int] = {}
    return [_figure(entry, pictures, numbers) for entry in entries]
  except (OSError, ValueError, LookupError, TypeError) as error:
    raise DataError(
      f"{path} cannot be read as a list of people with image, center, scale, "
      f"joints [16, 2] and joints_vis [16] ({error!r}); get it again."
    ) from error


def _figure(
  entry: dict[str, Any], pictures: Path, numbers: dict[str, int]
) -> Figure:
  center, scale = boxes.mpii_center_and_scale(
    np.array(entry["center"], float), float(entry["scale"])
  )
  # Counted from 1 in the file.
  joints = np.array(entry["joints"], float).reshape(16, 2) - 1
  labelled = np.array(entry["joints_vis"], int).reshape(16) > 0
  side = boxes.SCALE_UNIT * float(scale[0])
  name = entry["image"]
  return Figure(
    picture=pictures / name,
    image_id=numbers.setdefault(name, len(numbers) + 1),
    joints=joints,
    visible=np.where(labelled, 2, 0),
    box=np.array([*(center - side / 2), side, side]),
    center=center,
    scale=float(scale[0]),
    area=side**2,
  )


def _with_heads(path: Path, figures: Sequence[Figure]) -> list[Figure]:
  """Adds the boxes of heads, and uses the joints of the evaluation's file."""
  # A part of JAX's requirements.
  from scipy import io

  try:
    with files.on_disk(path) as file:
      content = io.loadmat(file)
    missing = np.asarray(content["jnt_missing"]).T
    joints = np.asarray(content["pos_gt_src"], float).transpose(2, 0, 1) - 1
    heads = np.asarray(content["headboxes_src"], float).transpose(2, 0, 1) - 1
  except OkdError:
    raise
  except Exception as error:  # SciPy and what is below it raise anything
    raise DataError(
      f"{path} cannot be read as a MAT file with jnt_missing, pos_gt_src and "
      f"headboxes_src ({error!r}); get it again."
    ) from error
  shapes = missing.shape, joints.shape, heads.shape
  count = len(figures)
  if shapes != ((count, 16), (count, 16, 2), (count, 2, 2)):
    raise DataError(
      f"{path} has arrays for {len(missing)} people, and valid.json has "
      f"{count}; both must be of the same people in the same order."
    )
  return [
    dataclasses.replace(
      figure,
      joints=points,
      visible=np.where(absent == 1, 0, 2),
      head_box=head,
    )
    for figure, points, absent, head in zip(
      figures, joints, missing, heads, strict=True
    )
  ]
