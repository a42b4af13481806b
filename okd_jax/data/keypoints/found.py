"""Boxes of figures that annotators or a detector found.

They are read from COCO annotations, with their list of images, or from the
output of detectors, a list of {"image_id", "category_id", "bbox", "score"}.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np

from okd_jax.data.keypoints import boxes, entries
from okd_jax.data.keypoints.info import PERSON
from okd_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Found:
  """Where a figure is.

  Attributes:
    image_id: id of its picture, as in the file.
    category_id: id of its category.
    box: (x, y, w, h).
    score: confidence of the detector; 1 for annotators.
    size: (width, height) of the picture; None if the file does not say.
  """

  image_id: int | str
  category_id: int | str
  box: np.ndarray
  score: float
  size: boxes.Size | None = None


class ByPicture:
  """The boxes in each picture, by the name of its file.

  Names with folders are compared by as many last parts as both have; if no name
  is the same in all of them, the folders do not count. Detections without
  "file_name" belong to the picture whose name is the id of their image, with or
  without leading zeros, as in COCO.
  """

  def __init__(self, path: pathlib.Path):
    """Reads a file.

    Raises:
      DataError: naming the file and the rule that it breaks.
    """
    self._path = path
    self._by_name: dict[str, list[Found]] = {}
    for name, figure in _named(path):
      self._by_name.setdefault(name, []).append(figure)
    # Names by what any picture of them must be called.
    self._by_end: dict[str, list[str]] = {}
    for name in self._by_name:
      self._by_end.setdefault(_parts(name)[-1], []).append(name)

  def of(self, file: pathlib.Path) -> list[Found]:
    """The boxes in a picture.

    Raises:
      DataError: if there are none, or if they may be those of several pictures.
    """
    parts = pathlib.Path(os.path.abspath(file)).parts
    stems = {file.stem, file.stem.lstrip("0") or "0"}
    numbers = [stem for stem in stems if stem in self._by_name]
    names = self._by_end.get(file.name, [])
    whole = [name for name in names if _parts(name) == parts]
    alike = [
      name for name in names if _parts(name) == parts[-len(_parts(name)) :]
    ]
    found = set(whole or [*numbers, *(alike or names)])
    if len(found) == 1:
      return self._by_name[found.pop()]
    problem = (
      f"several pictures for {file} ({', '.join(sorted(found))})"
      if found
      else f"no box for {file}"
    )
    raise DataError(
      f"{self._path} has {problem}; boxes of one picture with this name were "
      "expected. Correct its 'file_name', which may be a whole path, or leave "
      "the picture out."
    )


def _parts(name: str) -> tuple[str, ...]:
  return pathlib.PurePosixPath(name).parts or ("",)


def detections(path: pathlib.Path) -> list[Found]:
  """The boxes that a detector has found.

  Raises:
    DataError: naming the file and the rule that it breaks.
  """
  content = _load(path)
  if not isinstance(content, list):
    raise DataError(
      f"{path} must hold what a detector found, a list of objects with "
      '"image_id", "category_id", "bbox" and "score".'
    )
  return [_found(path, i, entry, None) for i, entry in enumerate(content)]


def _named(path: pathlib.Path) -> Iterator[tuple[str, Found]]:
  """Boxes with the name of their picture, or its id."""
  content = _load(path)
  if isinstance(content, list):
    for i, entry in enumerate(content):
      figure = _found(path, i, entry, None)
      if figure.box[2:].any():
        yield entries.slashed(entry.get("file_name") or figure.image_id), figure
    return
  try:
    images = {image["id"]: image for image in content["images"]}
    annotations = content["annotations"]
    names = {key: image["file_name"] for key, image in images.items()}
    if not isinstance(annotations, list):
      raise TypeError(f"annotations={annotations!r:.40} is no list")
  except (LookupError, TypeError) as error:
    raise DataError(
      f"{path} has neither images with 'id' and 'file_name', and annotations, "
      f"nor is it a list of detections ({error!r}); export it as COCO."
    ) from error
  for i, entry in enumerate(annotations):
    figure = _found(path, i, entry, images)
    if figure.box[2:].any():
      yield entries.slashed(names[figure.image_id]), figure


def _load(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_bytes())
  except (OSError, ValueError) as error:
    raise DataError(
      f"{path} cannot be read as JSON ({error}); write it again."
    ) from error


def _found(
  path: pathlib.Path,
  number: int,
  entry: Any,
  images: Mapping[Any, Any] | None,
) -> Found:
  """One entry; without a list of images it is one of a detector."""
  try:
    image = entry["image_id"]
    if not isinstance(image, int | str):
      raise ValueError(f"image_id {image!r}")
    box = _box(entry, optional=images is not None)
    score = float(entry["score"] if images is None else 1)
    if box.shape != (4,) or not np.isfinite([*box, score]).all():
      raise ValueError(f"bbox {box.tolist()}, score {score}")
    if box[2:].min() < 0:
      raise ValueError(f"bbox {box.tolist()}")
    about: Mapping[str, Any] = {} if images is None else images[image]
    size = about.get("width") or 0, about.get("height") or 0
    category = entry.get("category_id", PERSON)
    return Found(
      image,
      # As annotations have it, whose ids may be texts.
      category if isinstance(category, str) else int(category),
      box,
      score,
      (int(size[0]), int(size[1])) if all(size) else None,
    )
  except (LookupError, OverflowError, TypeError, ValueError) as error:
    raise DataError(
      f"{path}: entry {number} of its boxes is not as COCO has them "
      f"({error!r}): image_id of an image, bbox x, y, width, height, and the "
      "score of a detection were expected. Correct it, or leave it out."
    ) from error


def _box(entry: Any, *, optional: bool) -> np.ndarray:
  """The box, or if there is none that of the labelled joints, as in training.

  Args:
    entry: an annotation or a detection.
    optional: whether to return an empty box for a group, and if there are no
      such joints either.
  """
  if optional and entries.is_crowd(entry):
    return np.zeros(4)
  given = entry.get("bbox")
  box = np.zeros(4) if given is None else np.array(given, float)
  if box.shape != (4,) or box[2:].any():
    return box
  table = np.array(entry.get("keypoints") or [], float).reshape(-1, 3)
  if (table[:, 2] > 0).any():
    return boxes.around(table[:, :2], table[:, 2])
  if given is None and not optional:
    raise ValueError("neither 'bbox' nor 'keypoints'")
  return box
