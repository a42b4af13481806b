"""The answers of a network about the joints of figures in pictures."""

from collections.abc import Mapping
import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

from okd_jax.data import picture
from okd_jax.data.keypoints import boxes as boxes_lib, found, pictures
from okd_jax.data.keypoints.found import Found
from okd_jax.data.keypoints.info import KeypointInfo
from okd_jax.errors import DataError
from okd_jax.tasks import (
  asking,
  keypoint_drawing,
  keypoint_maps as maps_lib,
  keypoint_metrics,
)


@dataclasses.dataclass(frozen=True)
class _Crop:
  """The crop in which a figure is searched.

  Attributes:
    given: the given box.
    center: centre of the crop.
    scale: width of the crop, in units of 200 pixels.
  """

  given: Found
  center: np.ndarray
  scale: float


class Asking(asking.Asking):
  """Asks about crops around boxes, or whole pictures, and their mirror images.

  An answer is a figure for each box, in the format of COCO results: "image_id",
  "category_id", "keypoints" with x, y and confidence of every joint, and
  "score", together with the "box" and the "file_name". Places are in pixels of
  the picture.
  """

  heads = ("box", "score", "sure joints")

  def __init__(self, card: Mapping[str, Any], boxes: Path | None):
    super().__init__(card)
    self._known = KeypointInfo.of_json(card["keypoints"])
    self._boxes = None if boxes is None else found.ByPicture(boxes)

  def num_views(self, file):
    return 1 if self._boxes is None else len(self._boxes.of(file))

  def question(self, file, number):
    picture = self._picture(file)
    size = picture.shape[1], picture.shape[0]
    if self._boxes is None:
      crops = [self._whole(number, size)]
    else:
      crops = [self._around(each, file, size) for each in self._boxes.of(file)]
    (width, height), margin = self._size, self._known.margin
    across, down = margin
    views = []
    for crop in crops:
      # Exactly the pixels that an evaluation looks at.
      wide = pictures.crop(picture, crop.center, crop.scale, self._size, margin)
      views.append(wide[down : down + height, across : across + width])
    return asking.Question(file, np.stack(views), crops)

  def inputs(self, views):
    if self.card["flip"]:
      both = np.stack([views, views[:, :, ::-1]], axis=1)
      views = both.reshape(-1, *views.shape[1:])
    return super().inputs(views)

  def answer(self, question, logits):
    crops: list[_Crop] = question.about
    logits = jnp.asarray(logits)
    if self.card["flip"]:
      logits = maps_lib.merge_mirrored(
        logits[::2], logits[1::2], self._known.pairs
      )
    center = jnp.array([crop.center for crop in crops], jnp.float32)
    scale = jnp.array([[crop.scale] * 2 for crop in crops], jnp.float32)
    points, peak = map(
      np.asarray, maps_lib.decode_to_image(logits, center, scale)
    )
    surest = np.array([crop.given.score for crop in crops])
    scores = keypoint_metrics.rescore(peak, surest)
    return [
      {
        "image_id": crop.given.image_id,
        "category_id": crop.given.category_id,
        "file_name": str(question.file),
        # Not "bbox": pycocotools would take a result for one of boxes.
        "box": crop.given.box.tolist(),
        "keypoints": np.column_stack(figure).ravel().tolist(),
        "score": float(score),
      }
      for crop, score, *figure in zip(crops, scores, points, peak, strict=True)
    ]

  def cells(self, answer):
    rows = []
    for figure in answer:
      peak = np.array(figure["keypoints"][2::3])
      box = " ".join(f"{value:.0f}" for value in figure["box"])
      sure = f"{np.sum(peak > keypoint_metrics.SURE)} of {len(peak)}"
      rows.append((box, f"{figure['score']:.3f}", sure))
    return rows

  def document(self, results):
    """COCO's results of keypoints: one list for all pictures."""
    return [
      figure for result in results for figure in result.get("predictions", ())
    ]

  def draw(self, file, answer):
    drawn = Image.fromarray(self._picture(file))
    for figure in answer:
      table = np.array(figure["keypoints"]).reshape(-1, 3)
      visible = np.where(table[:, 2] > keypoint_metrics.SURE, 2, 1)
      keypoint_drawing.add(
        drawn,
        table[:, :2],
        visible,
        self._known.bones,
        label=f"{figure['score']:.2f}",
      )
    return drawn

  @property
  def _size(self) -> boxes_lib.Size:
    height, width, _ = self.card["image_shape"]
    return width, height

  @property
  def _aspect(self) -> float:
    width, height = self._size
    return width / height

  def _picture(self, file: Path) -> np.ndarray:
    # Boxes are where those of training are; otherwise people look at it.
    upright = self.card["exif"] or self._boxes is None
    return picture.read(file, exif=upright)

  def _around(self, given: Found, file: Path, size: boxes_lib.Size) -> _Crop:
    if given.size not in (None, size):
      meant = " x ".join(map(str, given.size))
      raise DataError(
        f"{file} is {size[0]} x {size[1]}, and its boxes are for a picture of "
        f"{meant}; give boxes of the pictures that are used."
      )
    if boxes_lib.is_outside(given.box, size):
      raise DataError(
        f"{file} is {size[0]} x {size[1]}, and its box {given.box.tolist()} "
        "lies outside; a box x, y, width, height in pixels of the picture was "
        "expected. Correct it, or leave it out."
      )
    box = boxes_lib.padded(given.box, self._known.box_padding)
    center, scale = boxes_lib.center_and_scale(box, self._aspect)
    return _Crop(given, center, float(scale[0]))

  def _whole(self, number: int, size: boxes_lib.Size) -> _Crop:
    """The smallest crop that contains a picture, without padding."""
    box = np.array([0, 0, *size], float)
    center, scale = boxes_lib.center_and_scale(box, self._aspect)
    width = float(scale[0]) / boxes_lib.PADDING
    given = Found(number, self._known.category_id, box, 1.0)
    return _Crop(given, center, width)
