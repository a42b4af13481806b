"""Facts about the joints of a data set, and how crops are augmented."""

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
    pairs: pairs of joints that change places when a picture is mirrored.
    bones: pairs of joints to join by a line in pictures.
    sigmas: sigmas of OKS, one per joint; () if OKS makes no sense.
    torso: left hip and right shoulder, or () if there are no such joints.
    mpii: whether the joints are the 16 of MPII, in its order.
    head_boxes: whether figures have the box of their head, for PCKh.
    official_sigmas: whether the sigmas are those of COCO, so that figures can
      be compared with published ones.
    box_padding: padding of boxes before crops are made around them, on every
      side, as a share of the longer side. Annotated boxes have it already.
    category_id: category of figures in COCO's files.
    mean_pose: mean place (x, y) of every joint in the crop, in its pixels.
    margin: pixels around the crop, (x, y), that are kept for augmentation.
    scale: see `okd_jax.data.config.Keypoints`, as for the next two; it takes
      its defaults from here.
    rotation: of the random angle.
    sigma: of the Gaussian around a joint.
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
    """Restores the result of `dataclasses.asdict` from JSON."""
    return cls(**{name: tuples(value) for name, value in saved.items()})


def tuples(value: Any) -> Any:
  """Turns nested lists back into the tuples that they were before JSON."""
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
