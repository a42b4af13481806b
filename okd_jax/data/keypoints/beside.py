"""Annotations that OKS does not count: groups, and people without a label.

Nothing is learned of them and nobody looks for them, but a detection that falls
on one is no mistake, so evaluations have to know where they are.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from okd_jax.data.keypoints import entries

# Numbers of an annotation in an array.
_WIDTH = 6


@dataclasses.dataclass(frozen=True)
class Beside:
  """One annotation, in pixels of its picture.

  Attributes:
    image_id: number of the picture, as in `Figure`.
    box: (x, y, w, h), as annotated.
    area: for OKS.
    crowd: whether it is a group, on which any number of detections may fall.
  """

  image_id: int
  box: tuple[float, ...]
  area: float
  crowd: bool


def read(
  entry: Mapping[str, Any], image_id: int, area_share: float
) -> Beside | None:
  """Reads an annotation; None if it has no box with an extent.

  Args:
    entry: the annotation, as in COCO's file.
    image_id: number of its picture.
    area_share: share of the box that counts as the area where that is unknown.

  Raises:
    TypeError, ValueError: if a value is of another kind.
  """
  box = np.array(entry.get("bbox") or [], float)
  if box.shape != (4,) or not np.isfinite(box).all() or box[2:].min() <= 0:
    return None
  area = entries.number(entry, "area")
  if not 0 < area < np.inf:
    area = float(area_share * box[2] * box[3])
  place = tuple(map(float, box))
  return Beside(image_id, place, area, entries.is_crowd(entry))


def to_array(parts: Sequence[Sequence[Beside]]) -> np.ndarray:
  """Those of N figures, float32 [N, K, 6]: box, area, crowd; else nan."""
  most = max(map(len, parts), default=0)
  table = np.full((len(parts), most, _WIDTH), np.nan, np.float32)
  for row, part in zip(table, parts, strict=True):
    for slot, each in enumerate(part):
      row[slot] = (*each.box, each.area, each.crowd)
  return table


def records(
  table: np.ndarray, image_id: np.ndarray, num_joints: int
) -> list[dict[str, Any]]:
  """Annotations in COCO's form; those of a picture are in the file's order.

  Args:
    table: as from `to_array`, [N, K, 6].
    image_id: of the N figures.
    num_joints: number J of joints.
  """
  return [
    {
      "image_id": int(image_id[row]),
      "bbox": table[row, slot, :4],
      "area": float(table[row, slot, 4]),
      "iscrowd": int(table[row, slot, 5]),
      "num_keypoints": 0,
      "keypoints": np.zeros((num_joints, 3)),
    }
    for slot, row in np.argwhere(~np.isnan(table[..., -1]).T)
  ]
