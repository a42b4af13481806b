"""Classifies image files with a run's leader or an exported network."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from okd_jax.data.formats import folder, tfds as prepared
from okd_jax.errors import DataError
from okd_jax.runs import run as reopen
from okd_jax.weights import export, exported as leader_lib

_BATCH_SIZE = 64


def predict(
  target: Path, paths: Iterable[Path], top: int = 5
) -> list[dict[str, Any]]:
  """Classifies images.

  An image of any size and mode is converted to the channels that the network
  was trained on and resized to its input; its centre is taken where training
  was on crops of random size.

  Args:
    target: a work directory or an exported network.
    paths: image files, and folders that are searched for image files.
    top: how many classes to name.

  Returns:
    For each image its `image` (the path) and `predictions`: the most probable
    classes, most probable first, each with `class` and `probability`.

  Raises:
    ConfigError: if target is no run.
    LeaderError: if it is a damaged export.
    DataError: naming a file that is missing or no image.
  """
  if (target / leader_lib.CARD).exists():
    card = leader_lib.read_card(target)
    apply, variables = leader_lib.load_leader(target)
  else:
    run = reopen.run(target)
    card = export.describe(run)
    apply, variables = export.function(run)
  files = find(paths)
  probabilities_of = jax.jit(lambda v, x: jax.nn.softmax(apply(v, x)))
  variables = jax.device_put(variables)
  results = []
  for start in range(0, len(files), _BATCH_SIZE):
    part = files[start : start + _BATCH_SIZE]
    images = [read(file, card) for file in part]
    probabilities = np.asarray(probabilities_of(variables, np.stack(images)))
    for file, row in zip(part, probabilities, strict=True):
      best = np.argsort(-row, kind="stable")[:top]
      results.append(
        {
          "image": str(file),
          "predictions": [
            {"class": card["classes"][i], "probability": float(row[i])}
            for i in best
          ],
        }
      )
  return results


def find(paths: Iterable[Path]) -> list[Path]:
  """The given files, and in the place of a folder all image files below it.

  Raises:
    DataError: if nothing is found at a path.
  """
  suffixes = Image.registered_extensions()
  files: list[Path] = []
  for path in paths:
    if path.is_dir():
      below = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in suffixes and file.is_file()
      )
      if not below:
        raise DataError(f"{path} holds no image; give one that does.")
      files += below
    elif path.is_file():
      files.append(path)
    else:
      raise DataError(f"{path} does not exist; give an image or a folder.")
  return files


def read(file: Path, card: Mapping[str, Any]) -> np.ndarray:
  """Reads an image as float32 [H, W, c] in [0, 1], as a card asks for it.

  Raises:
    DataError: if the file cannot be decoded.
  """
  height, width, channels = card["image_shape"]
  decode = prepared.decode_center if card["resized_crop"] else prepared.decode
  try:
    pixels = decode(
      file.read_bytes(), "L" if channels == 1 else "RGB", (height, width)
    )
  except folder.DAMAGE as error:
    raise DataError(
      f"{file} cannot be decoded ({error}); replace it or leave it out."
    ) from error
  return pixels.astype(np.float32) / 255
