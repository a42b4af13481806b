"""Figures in the boxes of people that a detector found, for testing."""

from collections.abc import Iterator
import pathlib

import numpy as np

from okd_jax.data.keypoints import boxes, coco, entries, found
from okd_jax.data.keypoints.figures import Figure
from okd_jax.data.keypoints.info import PERSON
from okd_jax.errors import DataError
from okd_jax.storage import files
from okd_jax.storage.paths import Path


def figures(
  path: pathlib.Path,
  annotations: Path,
  pictures: Path,
  aspect: float,
) -> Iterator[Figure]:
  """Figures of which only the box is known.

  Boxes are used unchanged, as in the published code, and those of other
  categories than people are left out.

  Args:
    path: file of the detections, a list of {"image_id", "category_id", "bbox",
      "score"}.
    annotations: COCO's file of the same pictures.
    pictures: folder of the pictures.
    aspect: width over height of the crops.

  Raises:
    DataError: naming the file and the rule that it breaks.
  """
  content = entries.load(annotations)
  (category,) = (c for c in content["categories"] if c.get("keypoints"))
  count = len(category["keypoints"])
  images = {image["id"]: image for image in content["images"]}
  numbers = entries.numbers(images)
  look = files.Look()
  for each in _people(path):
    if each.image_id not in images:
      raise DataError(
        f"{path} has a box in image {each.image_id!r}, which is not in "
        f"{annotations}; use what was found in these pictures."
      )
    image = images[each.image_id]
    picture = pictures / image["file_name"]
    if not look.has(picture):
      raise DataError(
        f"{path} has a box in image {each.image_id}, whose picture {picture} "
        "is not there; copy it."
      )
    center, scale = boxes.center_and_scale(each.box, aspect)
    yield Figure(
      picture,
      numbers[each.image_id],
      np.zeros((count, 2)),
      np.zeros(count, int),
      box=each.box,
      center=center,
      scale=float(scale[0]),
      area=float(coco.AREA_SHARE * each.box[2] * each.box[3]),
      size=(int(image["width"]), int(image["height"])),
      score=each.score,
    )


def _people(path: pathlib.Path) -> list[found.Found]:
  everything = found.detections(path)
  people = [
    each
    for each in everything
    if each.category_id == PERSON and each.box[2:].any()
  ]
  if not people:
    raise DataError(
      f"{path} has no box of a person among {len(everything)}; category_id "
      f"{PERSON} was expected, as COCO has people. Correct it, or name another "
      "file."
    )
  return people
