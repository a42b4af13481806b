"""Finds and reads the data set of keypoints that a configuration names."""

import dataclasses
import pathlib

from okd_jax.data.config import Config, KEYPOINTS
from okd_jax.data.formats import tfds as prepared
from okd_jax.data.info import HostData
from okd_jax.data.keypoints import boxes, coco, mpii, own, pictures, stickfolk
from okd_jax.data.keypoints.own import Set


def load(config: Config) -> HostData:
  """Reads a data set into memory.

  Raises:
    DataError: naming the file and the rule that it breaks.
  """
  return _described(config, find(config))


def find(config: Config) -> Set:
  """Reads the annotations of a data set.

  Raises:
    DataError: naming the file and the rule that it breaks.
  """
  width, height = size(config)
  name, aspect = config.name, width / height
  if name.startswith(KEYPOINTS):
    return own.read(name.removeprefix(KEYPOINTS), aspect, config.test_fraction)
  folder = prepared.data_dir(config.dir)
  return _stickfolk(stickfolk.prepare(folder, name.split("/")[1]), aspect)


def size(config: Config) -> boxes.Size:
  """(width, height) of the crops."""
  return config.keypoints.width or config.image_size, config.image_size


def _described(config: Config, found: Set) -> HostData:
  info = pictures.describe(
    config.name,
    found,
    size(config),
    scale=config.keypoints.scale,
    rotation=config.keypoints.rotation,
    sigma=config.keypoints.sigma,
  )
  return pictures.read(found, info)


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
