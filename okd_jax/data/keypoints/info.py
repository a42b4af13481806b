"""What is known of the joints of a data set, and how crops are augmented."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any, Self

Pairs = tuple[tuple[int, int], ...]

# The category of people, in COCO.
PERSON = 1
# Of the augmentation: a figure is turned with this probability, mirrored with
# one half.
TURNED = 0.6


@dataclasses.dataclass(frozen=True)
class KeypointInfo:
  """Facts about joints, which `DataInfo.class_names` names.

  Attributes:
    pairs: joints that change places in the mirror.
    bones: joints to be joined by a line in pictures.
    sigmas: of OKS, one a joint; () where it makes no sense.
    torso: left hip and right shoulder, or () where there are no such joints.
    mpii: the joints are the 16 of MPII, in its order.
    head_boxes: figures have the box of their head, for PCKh.
    official_sigmas: the sigmas are those of COCO, so that its figures compare.
    box_padding: of boxes, before crops are made around them: a share of the
      longer side, on every side. Annotated boxes have it already.
    category_id: of figures, in COCO's files.
    mean_pose: mean place (x, y) of every joint in the crop, in its pixels.
    margin: pixels around the crop, (x, y), that are there for augmentation.
    scale: spread of the random zoom, at most this far from 1.
    rotation: spread of the random angle in degrees, at most twice of it.
    sigma: of the Gaussian around a joint, in pixels of a heat map.
  """

  pairs: Pairs
  bones: Pairs
  sigmas: tuple[float, ...]
  torso: tuple[int, ...] = ()
  mpii: bool = False
  head_boxes: bool = False
  official_sigmas: bool = False
  box_padding: float = 0.0
  category_id: int | str = PERSON
  mean_pose: tuple[tuple[float, float], ...] = ()
  margin: tuple[int, int] = (0, 0)
  scale: float = 0.25
  rotation: float = 30.0
  sigma: float = 2.0

  @classmethod
  def of_json(cls, saved: Mapping[str, Any]) -> Self:
    """What `dataclasses.asdict` gave, after a file of JSON has held it."""
    return cls(**{name: tuples(value) for name, value in saved.items()})


def tuples(value: Any) -> Any:
  """Lists, and lists in them, as the tuples that they were before JSON."""
  return tuple(map(tuples, value)) if isinstance(value, list) else value


def margin(
  size: tuple[int, int], scale: float, rotation: float
) -> tuple[int, int]:
  """How far augmentation looks beyond a crop of (width, height)."""
  most = min(2 * rotation, 90.0)

  def reach(along: float, across: float) -> int:
    # The angle at which a corner is farthest out.
    angle = min(math.radians(most), math.atan2(across, along))
    half = (along * math.cos(angle) + across * math.sin(angle)) / 2
    return math.ceil(half * (1 + scale) - along / 2) + 1

  width, height = size
  return reach(width, height), reach(height, width)
