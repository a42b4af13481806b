"""A sheet of pictures as a network sees them in training."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from okd_jax import data
from okd_jax.data import mixing
from okd_jax.data.augmentation import Augment, PLAIN

_A_CLASS = 8
_MOST_CLASSES = 50
# Of a picture on the sheet, in pixels; smaller ones are enlarged.
_SIDE = 64
_GAP, _TEXT = 4, 14


def write(
  config: data.Config, path: pathlib.Path, how: Augment = PLAIN
) -> None:
  """Draws some training pictures of each class, one row per class.

  They are decoded, resized or cropped, and augmented as in training. A mixed
  picture is in the row of the one that it is mixed into.

  Args:
    config: configuration of the data.
    path: path of the PNG file.
    how: other changes of the pictures.

  Raises:
    DataError: if the data cannot be read.
  """
  # A batch of another kind is put together below.
  alone = dataclasses.replace(config, per_class=0)
  source = data.make(alone, batch_size=1, eval_batch_size=1, seed=0)
  info = source.info
  labels = source.train_labels(info.num_train)
  classes = range(min(info.num_classes, _MOST_CLASSES))
  rows = [np.flatnonzero(labels == label)[:_A_CLASS] for label in classes]
  # One batch of these alone.
  source.positions["train"] = np.concatenate(rows).astype(np.int32)
  source.batch_size = source.train_size
  batch = next(source.batches(0))

  @jax.jit
  def as_trained(images, labels):
    key = jax.random.key(0)
    seen = data.augment(images, key, info=info, how=how)
    if how.mixes:
      alike = dataclasses.replace(how, mix_per_peer=False)
      targets = jax.nn.one_hot(labels, info.num_classes)
      seen, _ = mixing.mix(seen, targets, key, how=alike)
    return seen

  seen = as_trained(batch.image, batch.target)
  pixels = data.denormalize(seen, info)
  by_class: list[list[np.ndarray]] = [[] for _ in classes]
  for image, label in zip(pixels, np.asarray(batch.target), strict=True):
    by_class[label].append(image)
  names = [info.class_names[label] for label in classes]
  path.parent.mkdir(parents=True, exist_ok=True)
  _draw(by_class, names).save(path)


def _draw(by_class: list[list[np.ndarray]], names: list[str]) -> Image.Image:
  height = _SIDE + _TEXT + _GAP
  width = _A_CLASS * (_SIDE + _GAP)
  sheet = Image.new("RGB", (width, height * len(names)), "white")
  draw, font = ImageDraw.Draw(sheet), _font()
  for row, (images, name) in enumerate(zip(by_class, names, strict=True)):
    # The number, as the font may lack all letters of some names.
    said = f"{row}: {_visible(name)}"
    draw.text((0, row * height), said, fill="black", font=font)
    for column, image in enumerate(images):
      channels = image[..., 0] if image.shape[-1] == 1 else image
      small = Image.fromarray(channels).convert("RGB")
      small = small.resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
      sheet.paste(small, (column * (_SIDE + _GAP), row * height + _TEXT))
  return sheet


def _font() -> Any:
  """A font of ten pixels: Matplotlib's, which has most scripts, if there is."""
  try:
    from matplotlib import font_manager
  except ModuleNotFoundError:
    return ImageFont.load_default()
  font = font_manager.findfont(font_manager.FontProperties())
  return ImageFont.truetype(font, 10)


def _visible(name: str) -> str:
  """A name in one line; what cannot be printed is escaped."""
  return "".join(
    char if char.isprintable() else ascii(char)[1:-1] for char in name
  )
