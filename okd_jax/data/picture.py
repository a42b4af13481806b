"""Reads one picture for the prediction of a trained network."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from okd_jax.data import images
from okd_jax.errors import DataError


def read(file: Path, *, exif: bool) -> np.ndarray:
  """Reads a picture as uint8 [H, W, 3].

  Args:
    file: file of the picture.
    exif: whether it is turned as its EXIF data say.

  Raises:
    DataError: if it cannot be decoded.
  """
  return _decoded(file, lambda content: images.decode(content, exif=exif))


def resized(file: Path, card: Mapping[str, Any]) -> np.ndarray:
  """Reads a picture as uint8 [H, W, c], as a card requires it.

  Raises:
    DataError: if it cannot be decoded.
  """
  height, width, channels = card["image_shape"]
  mode = "L" if channels == 1 else "RGB"
  take = images.center if card["resized_crop"] else images.whole
  return _decoded(
    file,
    lambda content: take(content, mode, (height, width), exif=card["exif"]),
  )


def _decoded(file: Path, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
  try:
    return decode(file.read_bytes())
  except (OSError, images.Undecodable) as error:
    raise DataError(
      f"{file} cannot be decoded ({error}); replace it or leave it out."
    ) from error
