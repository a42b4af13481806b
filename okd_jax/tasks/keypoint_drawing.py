"""Figures drawn over their pictures."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Color = tuple[int, int, int]

# Okabe and Ito's colours, which colour-blind people can tell apart.
_BONE, _JOINT, _HIDDEN = (86, 180, 233), (230, 159, 0), (213, 94, 0)


def draw(
  image: np.ndarray,
  points: np.ndarray,
  visible: np.ndarray,
  bones: Sequence[tuple[int, int]],
) -> Image.Image:
  """A picture with the joints of a figure, and lines along its bones.

  Args:
    image: uint8 [H, W, 3].
    points: in its pixels, [J, 2].
    visible: of every joint; 0 is not drawn, 1 is drawn as hidden.
    bones: joints to be joined by a line.
  """
  picture = Image.fromarray(image)
  add(picture, points, visible, bones)
  return picture


def add(
  picture: Image.Image,
  points: np.ndarray,
  visible: np.ndarray,
  bones: Sequence[tuple[int, int]],
  label: str = "",
  *,
  bone: Color = _BONE,
) -> None:
  """Draws a figure over a picture, as `draw` does, and a label above it."""
  pen = ImageDraw.Draw(picture)
  # Of small pictures 2 pixels, and visible in large ones.
  thick = max(2, max(picture.size) // 200)
  for a, b in bones:
    if visible[a] and visible[b]:
      pen.line((*points[a], *points[b]), fill=bone, width=thick)
  for (x, y), seen in zip(points, visible, strict=True):
    if seen:
      box = (x - thick, y - thick, x + thick, y + thick)
      pen.ellipse(box, fill=_HIDDEN if seen == 1 else _JOINT)
  if label and np.any(visible):
    x, y = points[visible > 0].min(axis=0)
    height = max(10, 6 * thick)
    place = max(0, x), max(0, y - height - thick)
    pen.text(place, label, fill=bone, font_size=height)


def sheet(pictures: Sequence[Image.Image], columns: int = 8) -> Image.Image:
  """Pictures of one size side by side, in rows."""
  width, height = pictures[0].size
  rows = -(-len(pictures) // columns)
  whole = Image.new("RGB", (columns * width, rows * height), "white")
  for i, picture in enumerate(pictures):
    whole.paste(picture, (i % columns * width, i // columns * height))
  return whole
