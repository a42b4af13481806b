"""Finds and reads the data set of keypoints that a configuration names."""

from collections.abc import Sequence
import dataclasses
import pathlib

import numpy as np

from okd_jax.data.config import Config, KEYPOINTS
from okd_jax.data.formats import tfds as prepared
from okd_jax.data.info import HostData
from okd_jax.data.keypoints import (
  boxes,
  coco,
  description,
  detected,
  figures,
  mpii,
  own,
  pictures,
  stickfolk,
)
from okd_jax.data.keypoints.own import Set
from okd_jax.data.keypoints.pictures import Listing
from okd_jax.errors import ConfigError, DataError
from okd_jax.storage import bucket, paths
from okd_jax.storage.paths import Path


def load(config: Config) -> HostData | Listing:
  """Reads a data set into memory, or lists it for a stream.

  Raises:
    ConfigError: if the validation data would be people without head size.
    DataError: naming the file and the rule that it breaks.
  """
  listing = listed(config, find(config))
  return listing if config.source == "stream" else pictures.read(listing)


def listed(config: Config, found: Set) -> Listing:
  """The data set of annotations and a configuration, without reading pictures.

  Raises:
    ConfigError: if the validation data would be people without head size.
  """
  if config.validation and found.info.head_boxes:
    _check_heads(config, found)
  return pictures.describe(
    config.name,
    dataclasses.replace(found, exif=found.exif and config.exif),
    size(config),
    scale=config.keypoints.scale,
    rotation=config.keypoints.rotation,
    sigma=config.keypoints.sigma,
  )


def find(config: Config) -> Set:
  """Reads the annotations of a data set.

  Raises:
    DataError: naming the file and the rule that it breaks.
  """
  width, height = size(config)
  name, aspect = config.name, width / height
  if name.startswith(KEYPOINTS):
    path = config.dir or name.removeprefix(KEYPOINTS)
    return own.read(path, aspect, config.test_fraction)
  folder = prepared.data_dir(config.dir)
  if name == "mpii":
    return mpii.read(_root(folder, "mpii", "annot"))
  if name == "coco_keypoints":
    root = _root(folder, "coco", "annotations")
    return coco2017(root, aspect, config.keypoints.boxes)
  here = _require_here(folder)
  return _stickfolk(stickfolk.prepare(here, name.split("/")[1]), aspect)


def coco2017(root: Path, aspect: float, found: str = "") -> Set:
  """The keypoints of COCO 2017.

  Boxes are those of the annotators; in tests those of a detector are added, and
  then only these count for OKS.

  Args:
    root: folder of annotations/person_keypoints_{train,val}2017.json and
      images/{train,val}2017/*.jpg.
    aspect: width over height of the crops.
    found: a file of the boxes that the detector found in val2017.
  """
  places = {
    split: (
      root / "annotations" / f"person_keypoints_{name}.json",
      root / "images" / name,
    )
    for split, name in (("train", "train2017"), ("test", "val2017"))
  }
  files = {
    split: coco.read(*place, aspect, official=True)
    for split, place in places.items()
  }
  for split, file in files.items():
    _require_those_of_coco(places[split][0], file.names, files["train"].names)
  splits = {split: file.figures for split, file in files.items()}
  if found:
    path = paths.expand(found)
    annotated = [dataclasses.replace(f, score=np.nan) for f in splits["test"]]
    splits["test"] = figures.with_beside(
      [*annotated, *detected.figures(path, *places["test"], aspect)],
      files["test"].beside,
    )
  train = files["train"]
  info, _ = description.describe(root, train.names, train.bones, {})
  return Set(
    train.names,
    dataclasses.replace(info, sigmas=coco.SIGMAS, official_sigmas=True),
    splits,
    tuple(note for file in files.values() for note in file.notes),
    exif=False,
  )


def _require_those_of_coco(
  path: Path, names: Sequence[str], trained: Sequence[str]
) -> None:
  """Refuses joints of another set, whose sigmas are not known."""
  wanted = len(coco.SIGMAS)
  if len(names) != wanted or names != trained:
    raise DataError(
      f"{path} has {len(names)} joints ({', '.join(names)}); the {wanted} of "
      "COCO, the same in both files, were expected. Joints of your own are for "
      "config.data.name=keypoints:PATH."
    )


def _check_heads(config: Config, found: Set) -> None:
  if any(figure.head_box is None for figure in found.splits["train"]):
    raise ConfigError(
      f"config.data.validation={config.validation} must be 0 for {config.name}:"
      " the size of their head is not known of its training people, so they "
      "have no PCKh. Change it, or move gt_valid.mat away to go by PCK@0.2."
    )


def size(config: Config) -> boxes.Size:
  """(width, height) of the crops."""
  return config.keypoints.width or config.image_size, config.image_size


def _require_here(place: Path) -> pathlib.Path:
  if isinstance(place, pathlib.Path):
    return place
  raise DataError(
    f"{place}: Stickfolk is drawn on the disk of a machine and not read from "
    "a bucket; leave config.data.dir out, or name a folder."
  )


def _root(folder: Path, name: str, below: str) -> Path:
  """The publisher's folder: the data directory itself, or one in it."""
  for place in (folder, folder / name):
    with bucket.reached(place):
      if (place / below).is_dir():
        return place
  raise DataError(
    f"{folder} has no folder {below} of {name}, and neither has "
    f"{folder / name}; set config.data.dir to the publisher's folder."
  )


def _stickfolk(folder: pathlib.Path, aspect: float) -> Set:
  files = {
    # Boxes are not tight: figures are wider than their joints.
    split: coco.read(
      folder / "annotations" / f"{split}.json", None, aspect, padding=0
    )
    for split in stickfolk.COUNTS
  }
  return Set(
    mpii.NAMES,
    dataclasses.replace(mpii.INFO, head_boxes=True),
    {split: file.figures for split, file in files.items()},
  )
