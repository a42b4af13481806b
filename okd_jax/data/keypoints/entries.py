"""The lists of a file of COCO keypoints: ids, and the joints of categories."""

from collections.abc import Mapping, Sequence
import json
from typing import Any

from okd_jax.data.keypoints.info import PERSON
from okd_jax.errors import DataError
from okd_jax.storage import files
from okd_jax.storage.paths import Path


def load(path: Path) -> dict[str, Any]:
  """Reads a file, and checks that it has its three lists."""
  try:
    content = json.loads(files.content(path))
  except (OSError, ValueError) as error:
    raise DataError(
      f"{path} cannot be read as JSON ({error}); export it again."
    ) from error
  for key in ("images", "annotations", "categories"):
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
      raise DataError(
        f"{path} has no list '{key}'; a file of COCO keypoints has images, "
        "annotations and categories. Export it as COCO Keypoints."
      )
  return content


def by_id(path: Path, entries: Sequence[Any], kind: str) -> dict[Any, Any]:
  """Entries by their id.

  Args:
    path: path of the file, for messages.
    entries: the entries of one list.
    kind: name of the list.

  Raises:
    DataError: if an entry has no id, or the id of another one.
  """
  found: dict[Any, Any] = {}
  for place, entry in enumerate(entries, 1):
    number = entry.get("id") if isinstance(entry, dict) else None
    if not isinstance(number, int | str):
      raise DataError(
        f"{path} has an entry of {kind} without an 'id' that is a whole number "
        f"or a text: number {place} has {number!r}. Number them anew."
      )
    if number in found:
      raise DataError(
        f"{path} has id {number} twice in {kind}; every id must be there "
        "once. Remove one, or number them anew."
      )
    found[number] = entry
  return found


def numbers(images: Mapping[Any, Any]) -> dict[Any, int]:
  """A number from 1 for the picture of every image, by id.

  Images of one file share a number, so that its figures stay together.
  """
  by_name: dict[str, int] = {}
  return {
    key: by_name.setdefault(slashed(image.get("file_name", key)), place)
    for place, (key, image) in enumerate(images.items(), 1)
  }


def slashed(name: Any) -> str:
  """The name of a picture with "/", as exports from Windows have "\\"."""
  return str(name).replace("\\", "/")


def number(entry: Mapping[str, Any], key: str) -> float:
  """A number that may be written as a text; 0 where nothing is said.

  Raises:
    TypeError, ValueError: if it is something else.
  """
  return float(entry.get(key) or 0)


def is_crowd(entry: Mapping[str, Any]) -> bool:
  """Whether an annotation is of a group.

  Raises:
    TypeError, ValueError: if it says neither 0 nor 1.
  """
  if (said := number(entry, "iscrowd")) not in (0, 1):
    raise ValueError(f"iscrowd {entry['iscrowd']!r} must be 0 or 1")
  return bool(said)


def require_categories(path: Path, content: Mapping[str, Any]) -> None:
  """Refuses annotations of a category that is not in the file.

  Raises:
    DataError: naming the first of them.
  """
  known = [c.get("id") for c in content["categories"] if isinstance(c, dict)]
  for entry in content["annotations"]:
    if "category_id" in entry and entry["category_id"] not in known:
      raise DataError(
        f"{path}: annotation {entry['id']}: category_id "
        f"{entry['category_id']!r} is of no category in the file; correct it, "
        "or leave it out of the export."
      )


def joints(
  path: Path, categories: Sequence[Any]
) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...], tuple[int | str, ...]]:
  """Names and bones of the joints, and ids of the categories that have them.

  Raises:
    DataError: if there is not one list of names, or the bones are not pairs.
  """
  having = [
    entry
    for entry in categories
    if isinstance(entry, dict) and entry.get("keypoints")
  ]
  for entry in having:
    if not isinstance(entry["keypoints"], list):
      raise DataError(
        f"{path} has a category with keypoints {entry['keypoints']!r}; a list "
        "of names of joints was expected. Correct it, or export it again."
      )
  lists = {tuple(map(str, entry["keypoints"])) for entry in having}
  if len(lists) != 1:
    raise DataError(
      f"{path} has {len(lists)} lists of joint names in its categories; one "
      "was expected, as a network finds the joints of one kind of figure. "
      "Export one category with 'keypoints' alone."
    )
  (names,) = lists
  skeleton = having[0].get("skeleton") or []
  known = range(1, len(names) + 1)
  if (
    len(set(names)) < len(names)
    or not isinstance(skeleton, list)
    or not all(
      isinstance(bone, list)
      and len(bone) == 2
      and all(j in known for j in bone)
      for bone in skeleton
    )
  ):
    raise DataError(
      f"{path} has joints {names} and skeleton {skeleton}; names must differ, "
      "and the skeleton has pairs of numbers of joints from 1. Correct them."
    )
  # Some tools write whole numbers as 1.0.
  bones = tuple((int(a) - 1, int(b) - 1) for a, b in skeleton)
  return names, bones, tuple(entry.get("id", PERSON) for entry in having)
