"""Figures of keypoints: PCKh of MPII, PCK of the torso, parts of OKS."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from okd_jax.data.keypoints import coco
from okd_jax.data.keypoints.figures import HEAD_SHARE

# Joints of MPII by the columns of its tables.
MPII_GROUPS = {
  "Head": (9,),
  "Shoulder": (12, 13),
  "Elbow": (11, 14),
  "Wrist": (10, 15),
  "Hip": (2, 3),
  "Knee": (1, 4),
  "Ankle": (0, 5),
}
# Pelvis and thorax, which the mean leaves out.
MPII_LEFT_OUT = (6, 7)
COCO_SIGMAS = np.array(coco.SIGMAS)
TINY = np.spacing(1.0)


class Pck(NamedTuple):
  """Shares of joints within reach, in percent; nan without a labelled joint.

  Attributes:
    per_joint: [J].
    num_labelled: labelled joints, int [J].
    mean: over all labelled joints that count.
  """

  per_joint: np.ndarray
  num_labelled: np.ndarray
  mean: float


def pck(
  points: np.ndarray,
  truth: np.ndarray,
  labelled: np.ndarray,
  lengths: np.ndarray,
  threshold: float,
  left_out: Sequence[int] = (),
) -> Pck:
  """Share of joints at most `threshold` lengths from the truth.

  Args:
    points: float [N, J, 2].
    truth: float [N, J, 2].
    labelled: bool [N, J].
    lengths: unit of every figure, [N].
    threshold: in this unit.
    left_out: joints that the mean leaves out.
  """
  distance = np.linalg.norm(points - truth, axis=-1) / lengths[:, None]
  labelled = labelled.astype(bool)
  hits = np.sum((distance <= threshold) & labelled, axis=0)
  count = np.sum(labelled, axis=0)
  counted = np.setdiff1d(np.arange(len(count)), left_out)
  per_joint = _percent(hits, count)
  mean = _percent(hits[counted].sum(), count[counted].sum())
  return Pck(per_joint, count, float(mean))


def _percent(part, whole):
  return np.where(whole > 0, 100 * part / np.maximum(whole, 1), np.nan)


def pckh(
  points: np.ndarray,
  truth: np.ndarray,
  labelled: np.ndarray,
  head_boxes: np.ndarray,
  threshold: float = 0.5,
) -> tuple[Pck, dict[str, float]]:
  """PCKh of the 16 joints of MPII, and its groups.

  Args:
    points: float [N, 16, 2], from the same origin as the truth.
    truth: float [N, 16, 2].
    labelled: bool [N, 16].
    head_boxes: two corners a figure, float [N, 2, 2].
    threshold: in sizes of the head.
  """
  diagonal = np.linalg.norm(head_boxes[:, 1] - head_boxes[:, 0], axis=-1)
  lengths = HEAD_SHARE * diagonal
  result = pck(points, truth, labelled, lengths, threshold, MPII_LEFT_OUT)
  return result, mpii_groups(result.per_joint)


def mpii_groups(per_joint: np.ndarray) -> dict[str, float]:
  """Figures of the 16 joints of MPII, by the columns of its tables."""
  return {
    name: float(np.mean(per_joint[list(joints)]))
    for name, joints in MPII_GROUPS.items()
  }


def torso_lengths(
  truth: np.ndarray,
  labelled: np.ndarray,
  boxes: np.ndarray,
  hip_and_shoulder: tuple[int, int] | None,
) -> np.ndarray:
  """Unit of `pck`: left hip to right shoulder, or the box's longer side.

  Args:
    truth: float [N, J, 2].
    labelled: bool [N, J].
    boxes: (x, y, w, h), float [N, 4].
    hip_and_shoulder: the two joints, None where the data has none.
  """
  sides = np.max(boxes[:, 2:], axis=-1)
  if hip_and_shoulder is None:
    return sides
  hip, shoulder = hip_and_shoulder
  torso = np.linalg.norm(truth[:, hip] - truth[:, shoulder], axis=-1)
  both = labelled[:, hip].astype(bool) & labelled[:, shoulder].astype(bool)
  return np.where(both & (torso > 0), torso, sides)


def mean_pose(joints: np.ndarray, labelled: np.ndarray) -> np.ndarray:
  """Mean place of every joint in the crops, [J, 2]: a guess without a look.

  Args:
    joints: in pixels of the crop, float [N, J, 2].
    labelled: bool [N, J].
  """
  shares = labelled.astype(float)[..., None]
  return np.sum(shares * joints, axis=0) / np.maximum(shares.sum(axis=0), 1)


def similarity(
  points: np.ndarray, others: np.ndarray, area: float, sigmas: np.ndarray
) -> np.ndarray:
  """exp(-d^2 / 2 s^2 k^2) of every joint, [..., J]: the summands of OKS."""
  square = np.sum(np.square(points - others), axis=-1)
  return np.exp(-square / (2 * np.square(2 * sigmas) * (area + TINY)))


def suppress(
  points: np.ndarray,
  scores: np.ndarray,
  areas: np.ndarray,
  threshold: float,
  sigmas: np.ndarray = COCO_SIGMAS,
) -> list[int]:
  """Detections of one image to keep, best first: none too close to a better.

  Args:
    points: float [D, J, 2].
    scores: [D].
    areas: of the padded boxes, [D].
    threshold: largest OKS with one that is kept.
    sigmas: [J].
  """
  keep: list[int] = []
  for k in np.argsort(-scores, kind="stable"):
    if all(
      np.mean(
        similarity(points[k], points[j], (areas[j] + areas[k]) / 2, sigmas)
      )
      <= threshold
      for j in keep
    ):
      keep.append(int(k))
  return keep


def rescore(
  confidence: np.ndarray, box_scores: np.ndarray, threshold: float = 0.2
) -> np.ndarray:
  """Scores of boxes [D] times the mean confidence [D, J] above a threshold."""
  sure = confidence > threshold
  total = np.sum(np.where(sure, confidence, 0), axis=-1)
  return box_scores * total / np.maximum(sure.sum(axis=-1), 1)
