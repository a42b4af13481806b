"""Figures drawn over their pictures."""

from collections.abc import Mapping, Sequence
import dataclasses
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image, ImageDraw


@dataclasses.dataclass(frozen=True)
class Look:
  """Colours of bones, joints, and joints that are hidden or not sure."""

  bone: tuple[int, int, int]
  joint: tuple[int, int, int]
  hidden: tuple[int, int, int]


# Okabe and Ito's colours, which colour-blind people can tell apart.
FOUND = Look((86, 180, 233), (230, 159, 0), (213, 94, 0))
TRUTH = Look(*((0, 158, 115),) * 3)
# Of joints that are exchanged in the mirror.
LEFT, RIGHT = (0, 158, 115), (204, 121, 167)
# Small crops are drawn at least so high.
_HEIGHT, _HEIGHT_OF_SIDES = 192, 128


def with_sides(
  image: np.ndarray,
  points: np.ndarray,
  labelled: np.ndarray,
  bones: Sequence[tuple[int, int]],
  pairs: Sequence[tuple[int, int]],
) -> Image.Image:
  """A crop with a figure whose left and right joints differ in colour.

  Args:
    image: uint8 [H, W, 3]; drawn larger if it is small.
    points: in its pixels, [J, 2].
    labelled: of every joint; 0 is not drawn.
    bones: joints to be joined by a line.
    pairs: left and right joints.
  """
  picture, points = _enlarged(image, _HEIGHT_OF_SIDES, points)
  left, right = ([pair[side] for pair in pairs] for side in (0, 1))
  colours = dict.fromkeys(left, LEFT) | dict.fromkeys(right, RIGHT)
  add(picture, points, 2 * (labelled > 0), bones, colours=colours)
  return picture


def add(
  picture: Image.Image,
  points: np.ndarray,
  visible: np.ndarray,
  bones: Sequence[tuple[int, int]],
  *,
  label: str = "",
  look: Look = FOUND,
  colours: Mapping[int, tuple[int, int, int]] = MappingProxyType({}),
) -> None:
  """Draws a figure over a picture, and a label above it.

  Args:
    picture: what is drawn on.
    points: in its pixels, [J, 2].
    visible: of every joint; 0 is not drawn, 1 is drawn as hidden.
    bones: joints to be joined by a line.
    label: a text.
    look: the colours.
    colours: other colours of visible joints, which are then larger.
  """
  pen = ImageDraw.Draw(picture)
  # Of small pictures 2 pixels, and visible in large ones.
  thick = max(2, max(picture.size) // 200)
  for a, b in bones:
    if visible[a] and visible[b]:
      pen.line((*points[a], *points[b]), fill=look.bone, width=thick)
  for joint, ((x, y), seen) in enumerate(zip(points, visible, strict=True)):
    if seen:
      size = thick + 1 if colours else thick
      colour = look.hidden if seen == 1 else colours.get(joint, look.joint)
      pen.ellipse(
        (x - size, y - size, x + size, y + size),
        fill=colour,
        outline="black" if colours else None,
      )
  if label and np.any(visible):
    x, y = points[visible > 0].min(axis=0)
    height = max(10, 6 * thick)
    place = max(0, x), max(0, y - height - thick)
    pen.text(place, label, fill=look.bone, font_size=height)


def compare(
  image: np.ndarray,
  truth: np.ndarray,
  labelled: np.ndarray,
  points: np.ndarray,
  visible: np.ndarray,
  bones: Sequence[tuple[int, int]],
) -> Image.Image:
  """A crop with the true figure, and over it the one that was found.

  Args:
    image: uint8 [H, W, 3]; drawn larger if it is small.
    truth: in its pixels, [J, 2].
    labelled: of every joint; 0 is not drawn.
    points: what was found, [J, 2].
    visible: of what was found, as for `add`.
    bones: joints to be joined by a line.
  """
  picture, truth, points = _enlarged(image, _HEIGHT, truth, points)
  add(picture, truth, labelled, bones, look=TRUTH)
  add(picture, points, visible, bones)
  return picture


def _enlarged(image: np.ndarray, height: int, *points: np.ndarray) -> Any:
  """The picture, by a whole factor at least so high, and points in it."""
  times = -(-height // image.shape[0])
  picture = Image.fromarray(image)
  picture = picture.resize((times * picture.width, times * picture.height))
  # A pixel's middle stays its middle.
  return picture, *(times * (where + 0.5) - 0.5 for where in points)


def sheet(pictures: Sequence[Image.Image], columns: int = 8) -> Image.Image:
  """Pictures of one size side by side, in rows."""
  width, height = pictures[0].size
  rows = -(-len(pictures) // columns)
  whole = Image.new("RGB", (columns * width, rows * height), "white")
  for i, picture in enumerate(pictures):
    whole.paste(picture, (i % columns * width, i // columns * height))
  return whole
