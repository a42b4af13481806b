"""Where a figure is in its image: the rules of the published data sets."""

import numpy as np

# Pixels of a box of scale 1.
SCALE_UNIT = 200
Size = tuple[int, int]
# A crop shows that much more than the box.
PADDING = 1.25


def clean_box(box: np.ndarray, image_size: Size) -> np.ndarray | None:
  """A COCO box (x, y, w, h) within its image; None if nothing is left."""
  x, y, width, height = box
  left, top = max(0, x), max(0, y)
  right = min(image_size[0] - 1, left + max(0, width - 1))
  bottom = min(image_size[1] - 1, top + max(0, height - 1))
  if right < left or bottom < top:
    return None
  return np.array([left, top, right - left, bottom - top], float)


def around(joints: np.ndarray, visible: np.ndarray) -> np.ndarray:
  """The tight box (x, y, w, h) of labelled joints [J, 2]."""
  labelled = joints[visible > 0]
  low = labelled.min(axis=0)
  return np.array([*low, *(labelled.max(axis=0) - low)])


def is_outside(box: np.ndarray, image_size: Size) -> bool:
  """Whether nothing of a box (x, y, w, h) is in its image."""
  x, y, width, height = box
  # A box of joints in a line, on the border, has no width.
  right, bottom = x + max(width, 1), y + max(height, 1)
  return bool(
    x >= image_size[0] or y >= image_size[1] or right <= 0 or bottom <= 0
  )


def padded(box: np.ndarray, share: float) -> np.ndarray:
  """A box with a share of its longer side on every side of it."""
  x, y, width, height = box
  pad = share * max(width, height)
  return np.array([x - pad, y - pad, width + 2 * pad, height + 2 * pad])


def center_and_scale(
  box: np.ndarray, aspect: float
) -> tuple[np.ndarray, np.ndarray]:
  """Centre and scale of the crop around a box (x, y, w, h).

  Args:
    box: the box in pixels.
    aspect: width over height of the crop.
  """
  x, y, width, height = box
  center = np.array([x + width / 2, y + height / 2])
  if width > aspect * height:
    height = width / aspect
  else:
    width = aspect * height
  return center, np.array([width, height]) / SCALE_UNIT * PADDING


def mpii_center_and_scale(
  center: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
  """Centre, counted from 0, and scale of the crop of an entry of MPII.

  A centre of -1 stands for none; only its origin is changed.
  """
  center = np.array(center, float)
  if center[0] != -1:
    center[1] += 15 * scale
    scale *= PADDING
  return center - 1, np.array([scale, scale])
