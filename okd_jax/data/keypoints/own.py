"""Your own keypoints: a folder with COCO JSON, pictures and a small YAML file.

    PATH/keypoints.yaml          optional, see `description`
    PATH/*.json, PATH/annotations/*.json
    PATH/images/*

CVAT (COCO Keypoints 1.0) and Label Studio (COCO with keypoints) export this.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import os
import re
from typing import Any
import zlib

import numpy as np

from okd_jax.data.formats import finder, fingerprint, tested, walk
from okd_jax.data.keypoints import coco, description
from okd_jax.data.keypoints.figures import Figure
from okd_jax.data.keypoints.info import KeypointInfo
from okd_jax.errors import ConfigError, DataError
from okd_jax.storage import bucket, files, paths
from okd_jax.storage.paths import Path


@dataclasses.dataclass(frozen=True)
class Set:
  """A data set of keypoints, without its pictures.

  Attributes:
    names: names of the joints.
    info: facts about the joints.
    splits: figures of "train" and, if they exist, of "validation" and "test".
    notes: sentences about what users may not expect.
    exif: whether the annotators saw pictures turned as their EXIF data say.
    flip: whether mirrored figures are valid figures.
    files: the files that a resumed run must find again, see
      `formats.fingerprint`.
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
    test_fraction: fraction of the pictures to test on, if there is no file of
      test figures.

  Raises:
    ConfigError: if no picture is left to train on.
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
  look = files.Look()
  folder = given if is_folder else _folder_of(given, look)
  said = description.read(folder / description.FILE, look)
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
  notes += _of_tests(annotations, said)
  notes += _unused(folder, annotations, look)
  if "test" not in splits:
    splits |= _divided(splits["train"], test_fraction)
  info, more = description.describe(
    folder / description.FILE, names, next(iter(parsed.values())).bones, said
  )
  heads = [
    f.head_box is not None for figures in splits.values() for f in figures
  ]
  info = dataclasses.replace(
    info,
    head_boxes=all(heads),
    box_padding=coco.PADDING,
    category_id=parsed["train"].category_id,
  )
  return Set(
    names,
    info,
    splits,
    (*notes, *more, *_warnings(splits, heads)),
    flip=bool(info.pairs) or "flip_pairs" in said,
    files=_described(folder, list(annotations.values()), splits, look),
  )


def _folder_of(file: Path, look: files.Look) -> Path:
  """The folder that a file of annotations belongs to."""
  beside, above = file.parent, file.parent.parent
  described = [look.has(f / description.FILE) for f in (beside, above)]
  if beside.name == "annotations" and described == [False, True]:
    return above
  return beside


def _of_tests(
  annotations: Mapping[str, Path], said: Mapping[str, Any]
) -> Iterator[str]:
  """A note that a validation file is used for testing."""
  test = annotations.get("test")
  if test and "test" not in said and _split_of(test) == finder.VALIDATION:
    yield (
      f"{test.name} is the test split, as there is no other; best is chosen on "
      "it."
    )


def _unused(
  folder: Path, annotations: Mapping[str, Path], look: files.Look
) -> Iterator[str]:
  """A note of files that stand for no split, as only others are named."""
  rest = sorted({*_in_folder(folder, look)} - {*annotations.values()})
  if rest:
    yield (
      f"{', '.join(file.name for file in rest)}: not used, as only other files "
      f"are named; {description.FILE} can name one for each of "
      f"{', '.join(description.SPLITS)}."
    )


def _in_folder(folder: Path, look: files.Look) -> list[Path]:
  """All files that may be annotations."""
  return sorted(
    place / name
    for place in (folder, folder / "annotations")
    for name in look.names(place)
    if name.endswith(".json") and not walk.is_hidden(name)
  )


def _warnings(
  splits: Mapping[str, Sequence[Figure]], heads: Sequence[bool]
) -> Iterator[str]:
  """Warnings of what makes figures too good, or leaves a figure out."""
  pictures = {
    split: {figure.picture for figure in figures}
    for split, figures in splits.items()
  }
  for split in ("validation", "test"):
    if shared := pictures.get(split, set()) & pictures["train"]:
      yield (
        f"{len(shared)} pictures of the {split} split are trained on as well, "
        "so figures of it are too good; leave them out of one."
      )
  if any(heads) and not all(heads):
    yield (
      f"{len(heads) - sum(heads)} of {len(heads)} figures have no head_box, so "
      "there is no PCKh."
    )


def _described(
  folder: Path,
  annotations: list[Path],
  splits: Mapping[str, Sequence[Figure]],
  look: files.Look,
) -> tuple[str, ...]:
  """A line for each file, with a checksum for those that people write."""
  if look.has(folder / description.FILE):
    annotations = [folder / description.FILE, *annotations]
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


def _files(
  given: Path, folder: Path, said: Mapping[str, Any], look: files.Look
) -> dict[str, Path]:
  """The annotations of each split."""
  named = {
    split: folder / said[split] for split in description.SPLITS if split in said
  }
  if given != folder:
    _require_trained_on(given, folder, named)
    named["train"] = given
  if named:
    if "train" not in named:
      raise DataError(f"{folder / description.FILE} names no file for 'train'.")
    for part, file in named.items():
      if not look.has(file):
        raise DataError(
          f"{folder / description.FILE} names {said[part]} for '{part}', "
          "which is not there; correct it, or put the file there."
        )
    return named
  found = _in_folder(folder, look)
  if len(found) == 1:
    return {"train": found[0]}
  by_split: dict[str, Path] = {}
  for file in found:
    split = _split_of(file)
    if split is None or split in by_split:
      raise DataError(
        f"{folder} has several files of annotations, and {file.name} does not "
        "say by its name which split it is; name them by 'train' and 'test' in "
        f"{description.FILE}."
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


def _split_of(file: Path) -> str | None:
  """The split that the name of a file stands for; None if for none."""
  words = re.split(r"[^a-z]+", file.stem.lower())
  return next(filter(None, map(finder.role_of, words)), None)


def _require_trained_on(
  given: Path, folder: Path, named: Mapping[str, Path]
) -> None:
  """Refuses to train on a file where the description names another one."""
  if named.get("train", given) != given:
    raise DataError(
      f"{folder / description.FILE} names {named['train']} for 'train', and "
      f"the configuration {given}; name the folder {folder} instead, or take "
      f"'train' out of {description.FILE}."
    )


def _divided(
  figures: Sequence[Figure], test_fraction: float
) -> dict[str, Sequence[Figure]]:
  """Some pictures, with all figures in them, for tests."""
  ids = sorted({figure.image_id for figure in figures})
  kept, chosen = tested.hold_out_rows(np.zeros(len(ids), int), test_fraction)
  if not len(kept):
    raise ConfigError(
      f"config.data.test_fraction={test_fraction} leaves none of {len(ids)} "
      "pictures to train on; lower it, or label more."
    )
  tests = {ids[i] for i in chosen}
  return {
    "train": [f for f in figures if f.image_id not in tests],
    "test": [f for f in figures if f.image_id in tests],
  }
