"""Figures drawn over their pictures."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

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
  pen = ImageDraw.Draw(picture)
  for a, b in bones:
    if visible[a] and visible[b]:
      pen.line((*points[a], *points[b]), fill=_BONE, width=2)
  for (x, y), seen in zip(points, visible, strict=True):
    if seen:
      box = (x - 2, y - 2, x + 2, y + 2)
      pen.ellipse(box, fill=_HIDDEN if seen == 1 else _JOINT)
  return picture


def sheet(pictures: Sequence[Image.Image], columns: int = 8) -> Image.Image:
  """Pictures of one size side by side, in rows."""
  width, height = pictures[0].size
  rows = -(-len(pictures) // columns)
  whole = Image.new("RGB", (columns * width, rows * height), "white")
  for i, picture in enumerate(pictures):
    whole.paste(picture, (i % columns * width, i // columns * height))
  return whole
