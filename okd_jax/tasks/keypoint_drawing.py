"""Figures drawn over their pictures."""

from collections.abc import Sequence
import dataclasses

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
# Small crops are drawn so high.
_HEIGHT = 192


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
  *,
  label: str = "",
  look: Look = FOUND,
) -> None:
  """Draws a figure over a picture, as `draw` does, and a label above it."""
  pen = ImageDraw.Draw(picture)
  # Of small pictures 2 pixels, and visible in large ones.
  thick = max(2, max(picture.size) // 200)
  for a, b in bones:
    if visible[a] and visible[b]:
      pen.line((*points[a], *points[b]), fill=look.bone, width=thick)
  for (x, y), seen in zip(points, visible, strict=True):
    if seen:
      box = (x - thick, y - thick, x + thick, y + thick)
      pen.ellipse(box, fill=look.hidden if seen == 1 else look.joint)
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
    visible: of what was found, as for `draw`.
    bones: joints to be joined by a line.
  """
  height, width = image.shape[:2]
  times = -(-_HEIGHT // height)
  picture = Image.fromarray(image).resize((times * width, times * height))
  for where, seen, look in (
    (truth, labelled, TRUTH),
    (points, visible, FOUND),
  ):
    # A pixel's middle stays its middle.
    add(picture, times * (where + 0.5) - 0.5, seen, bones, look=look)
  return picture


def sheet(pictures: Sequence[Image.Image], columns: int = 8) -> Image.Image:
  """Pictures of one size side by side, in rows."""
  width, height = pictures[0].size
  rows = -(-len(pictures) // columns)
  whole = Image.new("RGB", (columns * width, rows * height), "white")
  for i, picture in enumerate(pictures):
    whole.paste(picture, (i % columns * width, i // columns * height))
  return whole
