"""Figures of keypoints: PCKh of MPII, PCK of the torso, parts of OKS."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from okd_jax.data.keypoints import coco

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
# A joint of less confidence counts as not found, as the published code scores.
SURE = 0.2


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


def mpii_groups(per_joint: np.ndarray) -> dict[str, float]:
  """Figures of the 16 joints of MPII, by the columns of its tables."""
  return {
    name: float(np.mean(per_joint[list(joints)]))
    for name, joints in MPII_GROUPS.items()
  }


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
  confidence: np.ndarray, box_scores: np.ndarray, threshold: float = SURE
) -> np.ndarray:
  """Scores of boxes [D] times the mean confidence [D, J] above a threshold."""
  sure = confidence > threshold
  total = np.sum(np.where(sure, confidence, 0), axis=-1)
  return box_scores * total / np.maximum(sure.sum(axis=-1), 1)
