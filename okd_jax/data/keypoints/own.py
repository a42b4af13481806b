"""Keypoints of one's own: a folder with COCO JSON, pictures and a small YAML.

    PATH/keypoints.yaml          optional, see `Description`
    PATH/*.json, PATH/annotations/*.json
    PATH/images/*

CVAT (COCO Keypoints 1.0) and Label Studio (COCO with keypoints) export such.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import re
from typing import Any
import zlib

import numpy as np

from okd_jax.data.formats import finder, fingerprint, tfds as prepared
from okd_jax.data.keypoints import coco
from okd_jax.data.keypoints.figures import Figure
from okd_jax.data.keypoints.info import KeypointInfo, Pairs
from okd_jax.errors import closest, DataError
from okd_jax.storage import bucket, files, paths
from okd_jax.storage.paths import Path

DESCRIPTION = "keypoints.yaml"
SIGMA = 0.05
_SPLITS = ("train", "validation", "test")
_KEYS = (*_SPLITS, "images", "flip_pairs", "sigmas", "skeleton", "torso")
_SIDES = (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"), ("l", "r"))
# The torso, by the names that people give to its ends.
_TORSO = (("left_hip", "right_shoulder"), ("l_hip", "r_shoulder"))


@dataclasses.dataclass(frozen=True)
class Set:
  """A data set of keypoints, read but for its pictures.

  Attributes:
    names: of the joints.
    info: what is known of them.
    splits: figures of "train" and, where there are such, of "validation" and
      "test".
    notes: what people may not expect, each a sentence.
    exif: whether the annotators saw pictures turned as EXIF says.
    flip: whether mirrored figures are figures.
    files: what a run is to find again, see `formats.fingerprint`.
  """

  names: tuple[str, ...]
  info: KeypointInfo
  splits: Mapping[str, Sequence[Figure]]
  notes: tuple[str, ...] = ()
  exif: bool = True
  flip: bool = True
  files: tuple[str, ...] = ()


def read(path: str, aspect: float, test_fraction: float) -> Set:
  """Reads annotations.

  Args:
    path: a folder, or a JSON file.
    aspect: width over height of the crops.
    test_fraction: of the pictures, where there is no file of tests.

  Raises:
    DataError: naming the file and the rule that it breaks.
  """
  given = paths.anywhere(path)
  with bucket.reached(given):
    there, is_folder = given.exists(), given.is_dir()
  if not there:
    raise DataError(
      f"{given} is not there; a folder with annotations and pictures, or a "
      "file of annotations, was expected. Correct config.data.name."
    )
  folder = given if is_folder else given.parent
  look = files.Look()
  said = _description(folder / DESCRIPTION, look)
  pictures = folder / said["images"] if "images" in said else None
  annotations = _files(given, folder, said, look)
  parsed = {
    split: coco.read(file, pictures, aspect, look=look)
    for split, file in annotations.items()
  }
  lists = {file.names for file in parsed.values()}
  if len(lists) > 1:
    raise DataError(
      f"{path}: the files of {', '.join(parsed)} have other joints, or another "
      "order; they must be the same in all."
    )
  names = next(iter(lists))
  splits: dict[str, Sequence[Figure]] = {
    split: file.figures for split, file in parsed.items()
  }
  notes = [note for file in parsed.values() for note in file.notes]
  if "test" not in splits:
    splits |= _divided(splits["train"], test_fraction)
  info, more = describe(
    folder / DESCRIPTION, names, next(iter(parsed.values())).bones, said
  )
  heads = [
    f.head_box is not None for figures in splits.values() for f in figures
  ]
  info = dataclasses.replace(
    info, head_boxes=all(heads), box_padding=coco.PADDING
  )
  return Set(
    names,
    info,
    splits,
    (*notes, *more),
    flip=bool(info.pairs) or "flip_pairs" in said,
    files=_described(folder, list(annotations.values()), splits, look),
  )


def _described(
  folder: Path,
  annotations: list[Path],
  splits: Mapping[str, Sequence[Figure]],
  look: files.Look,
) -> tuple[str, ...]:
  """A line for each file, with a sum of those that people write."""
  if look.has(folder / DESCRIPTION):
    annotations = [folder / DESCRIPTION, *annotations]
  sums = {
    _name(file, folder): zlib.crc32(files.content(file)) for file in annotations
  }
  pictures = {f.picture for figures in splits.values() for f in figures}
  sizes = {
    _name(file, folder): look.size(file)
    for file in (*annotations, *sorted(pictures))
  }
  return fingerprint.describe(folder, sizes, sums, sizes)


def _name(file: Path, folder: Path) -> str:
  return os.path.relpath(os.fspath(file), os.fspath(folder))


def describe(
  path: Path,
  names: tuple[str, ...],
  bones: Pairs,
  said: Mapping[str, Any],
) -> tuple[KeypointInfo, list[str]]:
  """What is known of joints, from their names and a description.

  Args:
    path: of the description, for messages.
    names: of the joints.
    bones: of the annotations.
    said: content of the description.

  Returns:
    The facts, and notes.
  """
  notes = []

  def joint(name: Any) -> int:
    if name not in names:
      raise DataError(
        f"{path} names the joint '{name}', which is not in the annotations"
        f"{closest(str(name), names)} They have {', '.join(names)}."
      )
    return names.index(name)

  def joints(key: str, default: Pairs) -> Pairs:
    if key not in said:
      return default
    try:
      return tuple((joint(a), joint(b)) for a, b in said[key] or ())
    except (TypeError, ValueError) as error:
      raise DataError(
        f"{path}: '{key}' must be a list of pairs of joint names."
      ) from error

  pairs = joints("flip_pairs", mirrored(names))
  paired = [end for pair in pairs for end in pair]
  if len(set(paired)) < len(paired):
    raise DataError(f"{path}: 'flip_pairs' must have every joint once at most.")
  if not pairs and "flip_pairs" not in said:
    notes.append(
      "No joints are named left_* and right_*, so nothing is mirrored; "
      f"'flip_pairs' in {path.name} names them, or [] if there are none."
    )
  if "sigmas" not in said:
    notes.append(f"OKS takes {SIGMA} for all joints: it is not that of COCO.")
  by_joint = {joint(name): value for name, value in _sigmas(path, said).items()}
  named = [ends for ends in _TORSO if set(ends) <= set(names)]
  torso = tuple(map(names.index, named[0])) if named else ()
  if "torso" in said:
    ends = said["torso"]
    if not isinstance(ends, list) or len(ends) != 2:
      raise DataError(f"{path}: 'torso' must be a list of two joint names.")
    torso = joint(ends[0]), joint(ends[1])
  if not torso:
    notes.append(
      "There is no left_hip and right_shoulder, so PCK is in shares of the "
      "longer side of a box."
    )
  return KeypointInfo(
    pairs=pairs,
    bones=joints("skeleton", bones),
    sigmas=tuple(by_joint.get(i, SIGMA) for i in range(len(names))),
    torso=torso,
  ), notes


def _sigmas(path: Path, said: Mapping[str, Any]) -> dict[str, float]:
  sigmas = said.get("sigmas") or {}
  if not isinstance(sigmas, dict) or not all(
    isinstance(value, int | float) and value > 0 for value in sigmas.values()
  ):
    raise DataError(f"{path}: 'sigmas' must be numbers above 0 by joint.")
  return {name: float(value) for name, value in sigmas.items()}


def mirrored(names: Sequence[str]) -> Pairs:
  """Pairs of joints by their names: left_eye and right_eye, eye.L and eye.R."""
  found = []
  for i, name in enumerate(names):
    for left, right in (*_SIDES, ("L", "R")):
      # Whole words: "leg" does not begin with l for left.
      other = re.sub(rf"(?<![a-zA-Z]){left}(?![a-z])", right, name)
      if other != name and other in names:
        found.append((i, names.index(other)))
        break
  return tuple(found)


def _description(path: Path, look: files.Look) -> dict[str, Any]:
  if not look.has(path):
    return {}
  # Needed by those alone who write such a file.
  import yaml

  try:
    said = yaml.safe_load(files.content(path).decode()) or {}
  except (OSError, ValueError, yaml.YAMLError) as error:
    raise DataError(f"{path} cannot be read as YAML ({error}).") from error
  if not isinstance(said, dict):
    raise DataError(f"{path} must hold keys: {', '.join(_KEYS)}.")
  for key in said:
    if key not in _KEYS:
      raise DataError(
        f"{path} has the key '{key}'{closest(key, _KEYS)} The keys are "
        f"{', '.join(_KEYS)}."
      )
  for key in (*_SPLITS, "images"):
    if not isinstance(said.get(key, ""), str):
      raise DataError(f"{path}: '{key}' must be a path, not {said[key]!r}.")
  return said


def _files(
  given: Path, folder: Path, said: Mapping[str, Any], look: files.Look
) -> dict[str, Path]:
  """The annotations of each split."""
  named = {split: folder / said[split] for split in _SPLITS if split in said}
  if named:
    if "train" not in named:
      raise DataError(f"{folder / DESCRIPTION} names no file for 'train'.")
    return named
  if given.suffix == ".json":
    return {"train": given}
  found = sorted(
    place / name
    for place in (folder, folder / "annotations")
    for name in look.names(place)
    if name.endswith(".json")
  )
  if len(found) == 1:
    return {"train": found[0]}
  by_split: dict[str, Path] = {}
  for file in found:
    words = re.split(r"[^a-z]+", file.stem.lower())
    split = next(filter(None, map(finder.role_of, words)), None)
    if split is None or split in by_split:
      raise DataError(
        f"{folder} has several files of annotations, and {file.name} does not "
        "say by its name which split it is; name them by 'train' and 'test' in "
        f"{DESCRIPTION}."
      )
    by_split[split] = file
  if "train" not in by_split:
    raise DataError(
      f"{folder} has no annotations to train on; a file *.json in COCO's "
      "format was expected there or in its folder annotations."
    )
  if "test" not in by_split and finder.VALIDATION in by_split:
    by_split["test"] = by_split.pop(finder.VALIDATION)
  return by_split


def _divided(
  figures: Sequence[Figure], test_fraction: float
) -> dict[str, Sequence[Figure]]:
  """Some pictures, with all figures in them, for tests."""
  ids = sorted({figure.image_id for figure in figures})
  _, chosen = prepared.hold_out_rows(np.zeros(len(ids), int), test_fraction)
  tests = {ids[i] for i in chosen}
  return {
    "train": [f for f in figures if f.image_id not in tests],
    "test": [f for f in figures if f.image_id in tests],
  }
