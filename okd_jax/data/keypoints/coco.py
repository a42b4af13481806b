"""Keypoints in the format of COCO: one JSON file, and a folder of pictures."""

import collections
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

import numpy as np

from okd_jax.data.keypoints import beside as beside_lib, boxes, entries
from okd_jax.data.keypoints.figures import Figure, with_beside
from okd_jax.errors import DataError
from okd_jax.storage import files
from okd_jax.storage.paths import Path

# Of the area of a box, where the outline of a figure is not known; as
# xtcocotools has it.
AREA_SHARE = 0.53
# Of the joints of COCO, for OKS.
SIGMAS = (
  *(0.026, *(0.025,) * 2, *(0.035,) * 2, *(0.079,) * 2, *(0.072,) * 2),
  *(*(0.062,) * 2, *(0.107,) * 2, *(0.087,) * 2, *(0.089,) * 2),
)
# Of a tight box's longer side, on every side of it.
PADDING = 0.1


@dataclasses.dataclass(frozen=True)
class File:
  """The content of a file.

  Attributes:
    names: names of the joints.
    bones: pairs of joints joined by a line, counted from 0.
    category_id: category of the figures.
    figures: the figures with a labelled joint.
    beside: the annotations that AP does not count, see `beside`.
    notes: sentences about what users may not expect.
  """

  names: tuple[str, ...]
  bones: tuple[tuple[int, int], ...]
  category_id: int | str
  figures: tuple[Figure, ...]
  beside: tuple[beside_lib.Beside, ...]
  notes: tuple[str, ...]


def read(
  path: Path,
  pictures: Path | None,
  aspect: float,
  *,
  official: bool = False,
  padding: float = PADDING,
  look: files.Look | None = None,
) -> File:
  """Reads and checks a file.

  Args:
    path: the JSON file.
    pictures: the folder of the pictures; None looks beside the file.
    aspect: width over height of the crops.
    official: whether the file is COCO's own: boxes are then cleaned as
      published and not padded, and areas are those of outlines.
    padding: padding of other boxes on every side, as a share of the longer
      side.
    look: tells which files exist; by default they are looked up again.

  Raises:
    DataError: naming the file, what is wrong in it, and the rule.
    UnreachableError: if it is in a bucket that cannot be reached.
  """
  content = entries.load(path)
  images = entries.by_id(path, content["images"], "images")
  entries.by_id(path, content["annotations"], "annotations")
  names, bones, kinds = entries.joints(path, content["categories"])
  entries.require_categories(path, content)
  reader = _Reader(
    path, pictures, names, kinds, aspect, official, padding, look
  )
  figures = tuple(reader.figures(images, content["annotations"]))
  if not figures:
    reasons = " ".join(["", *reader.notes()])
    raise DataError(
      f"{path} has no labelled joint to learn in {len(content['annotations'])} "
      "annotations; one at least was expected. Label some, or check the "
      f"export.{reasons}"
    )
  others = tuple(reader.beside)
  figures = with_beside(figures, others)
  return File(names, bones, kinds[0], figures, others, tuple(reader.notes()))


class _Reader:
  """Turns annotations into figures, and counts what is left out."""

  def __init__(
    self, path, pictures, names, kinds, aspect, official, padding, look
  ):
    self.beside: list[beside_lib.Beside] = []
    self._path, self._pictures = path, pictures
    self._names, self._kinds = names, kinds
    self._aspect, self._official = aspect, official
    self._padding, self._look = padding, look or files.Look()
    self._places: dict[int, Path] = {}
    self._names_of: dict[Path, str] = {}
    self._counts = collections.Counter[str]()

  def figures(
    self, images: Mapping[Any, Any], annotations: Sequence[Any]
  ) -> Iterator[Figure]:
    numbers = entries.numbers(images)
    for entry in annotations:
      image = entry.get("image_id")
      if not isinstance(image, int | str) or image not in images:
        raise self._wrong(
          entry, f"image_id {image!r} is of no image in the file"
        )
      try:
        figure = self._figure(entry, images[image], numbers[image])
      except (TypeError, ValueError) as error:
        raise self._wrong(
          entry, f"a value is of another kind than COCO's ({error})"
        ) from error
      if figure is not None:
        yield figure

  def _figure(self, entry, image, number: int) -> Figure | None:
    if entries.is_crowd(entry):
      self._leave(entry, number, "crowd")
      return None
    if (labelled := self._labelled(entry)) is None:
      self._leave(entry, number, "unlabelled")
      return None
    if number not in self._places:
      self._places[number] = self._picture(image)
    size = self._size(image)
    if (box := self._box(entry, *labelled, size)) is None:
      self._counts["outside" if self._official else "point"] += 1
      return None
    framed = box if self._official else boxes.padded(box, self._padding)
    center, scale = boxes.center_and_scale(framed, self._aspect)
    joints, visible = labelled
    half = scale * boxes.SCALE_UNIT / 2
    inside = np.all(np.abs(joints - center) <= half, axis=1)
    self._counts["away"] += not np.any(inside & (visible > 0))
    beyond = np.any((joints < 0) | (joints > size), axis=1)
    self._counts["beyond"] += int(np.sum(beyond & (visible > 0)))
    return Figure(
      self._places[number],
      number,
      *labelled,
      box=box,
      center=center,
      scale=float(scale[0]),
      area=self._area(entry, box if box[2:].all() else framed),
      head_box=self._head_box(entry),
      size=size,
    )

  def _leave(self, entry, number: int, why: str) -> None:
    self._counts[why] += 1
    if entry.get("category_id", self._kinds[0]) in self._kinds:
      if left := beside_lib.read(entry, number, AREA_SHARE):
        self.beside.append(left)

  def notes(self) -> Iterator[str]:
    said = {
      "crowd": "groups (iscrowd) are left out",
      "unlabelled": "annotations without a labelled joint are left out",
      "outside": "figures whose box is empty are left out",
      "point": "figures with one labelled point and no box are left out, as "
      "their size is not known",
      "away": "figures have no labelled joint in the crop around their box, so "
      "nothing is learned of them; boxes are x, y, width, height in pixels",
      "beyond": "labelled joints lie outside of their pictures; x and y are in "
      "pixels of the picture",
      "area": f"figures have no area; {AREA_SHARE} of their box's is taken",
    }
    for what, text in said.items():
      if count := self._counts[what]:
        yield f"{self._path.name}: {count} {text}."

  def _labelled(self, entry) -> tuple[np.ndarray, np.ndarray] | None:
    """Joints [J, 2] and visibility [J]; None if none is labelled."""
    values, count = entry.get("keypoints") or [], len(self._names)
    if not values:
      return None
    if len(values) != 3 * count:
      raise self._wrong(
        entry,
        f"'keypoints' has {len(values)} numbers; {3 * count} were expected, x, "
        f"y and visibility of {count} joints",
      )
    table = np.array(values, float).reshape(count, 3)
    visible = table[:, 2]
    if not np.isfinite(table).all() or not np.isin(visible, (0, 1, 2)).all():
      raise self._wrong(
        entry, "'keypoints' must be finite, and visibility 0, 1 or 2"
      )
    return (table[:, :2], visible.astype(int)) if visible.any() else None

  def _box(self, entry, joints, visible, size) -> np.ndarray | None:
    given = entry.get("bbox")
    own = boxes.around(joints, visible)
    box = own if given is None else np.array(given, float)
    if box.shape != (4,) or not np.isfinite(box).all() or box[2:].min() < 0:
      raise self._wrong(entry, f"bbox {given} must be x, y, width, height")
    if self._official:
      known = entries.number(entry, "area")
      cleaned = boxes.clean_box(box, size) if known else None
      # One of a single pixel has no extent, and no crop around it.
      return None if cleaned is None or not cleaned[2:].any() else cleaned
    # Tools write an empty box where nobody drew one.
    if not box[2:].any() and not (box := own)[2:].any():
      return None
    if boxes.is_outside(box, size):
      raise self._wrong(
        entry,
        f"bbox {box.tolist()} lies outside the picture of {size[0]} x "
        f"{size[1]}",
      )
    return box

  def _area(self, entry, box) -> float:
    if area := entries.number(entry, "area"):
      if not 0 < area < np.inf:
        raise self._wrong(
          entry, f"area {area:g} must be above 0, or 0 where it is not known"
        )
      return area
    self._counts["area"] += 1
    return float(AREA_SHARE * box[2] * box[3])

  def _head_box(self, entry) -> np.ndarray | None:
    if (given := entry.get("head_box")) is None:
      return None
    box = np.array(given, float)
    if (
      box.shape != (4,)
      or not np.isfinite(box).all()
      or box[2:].min() < 0
      or not box[2:].any()
    ):
      raise self._wrong(
        entry, f"head_box {given} must be x, y, width, height, and not empty"
      )
    return np.array([box[:2], box[:2] + box[2:]])

  def _size(self, image) -> boxes.Size:
    size = image.get("width"), image.get("height")
    if not all(isinstance(n, int | float) and 1 <= n < 2**20 for n in size):
      raise DataError(
        f"{self._path}: image {image['id']} has width and height {size}; "
        "numbers of pixels were expected. Export it again."
      )
    return int(size[0]), int(size[1])

  def _picture(self, image) -> Path:
    name = entries.slashed(image.get("file_name", ""))
    beside = self._path.parent
    folders = (
      [self._pictures]
      if self._pictures
      else [beside, beside / "images", beside.parent / "images", beside.parent]
    )
    # Folders in names are not always kept.
    for tried in (name, pathlib.PurePosixPath(name).name):
      for folder in folders:
        if tried and self._look.has(place := folder / tried):
          self._require_one_name(place, name)
          return place
    raise DataError(
      f"{self._path}: the picture '{name}' of image {image['id']} is in none "
      f"of {', '.join(map(str, folders))}; put it there, or name the folder by "
      "'images' in keypoints.yaml."
    )

  def _require_one_name(self, place: Path, name: str) -> None:
    """Refuses two pictures of one file, whose folders were not kept."""
    if (other := self._names_of.setdefault(place, name)) != name:
      raise DataError(
        f"{self._path}: the pictures '{other}' and '{name}' are both found as "
        f"{place}; put them into the folders of these names, or write one name "
        "if they are one picture."
      )

  def _wrong(self, entry, problem: str) -> DataError:
    return DataError(
      f"{self._path}: annotation {entry.get('id')}: {problem}; correct it, or "
      "leave it out of the export."
    )
