"""How a figure of `stickfolk` and what is around it are drawn."""

import colorsys

import numpy as np
from PIL import Image, ImageDraw

from okd_jax.data.keypoints import mpii

# Pictures are drawn that much larger, for smooth edges.
_FINE = 3
_HEAD_WIDTH = 0.82
# Thickness of limbs as shares of the standing height.
_THICK = {"thigh": 0.085, "shank": 0.065, "arm": 0.06, "forearm": 0.05}
_SKINS = ((0.95, 0.78, 0.65), (0.82, 0.62, 0.47), (0.55, 0.38, 0.27))

Color = tuple[int, int, int]


class Picture:
  """A picture that is being drawn."""

  def __init__(
    self, rng: np.random.Generator, size: int, *, clutter: int, plain: bool
  ):
    """Draws a background.

    Args:
      rng: of everything.
      size: width and height.
      clutter: things in it, from 2 to 2 more than that.
      plain: dark, for figures in bright clothes.
    """
    self._rng, self._size, self._plain = rng, size, plain
    background = self._color(0.08, 0.45) if plain else self._color()
    side = size * _FINE
    self._image = Image.new("RGB", (side, side), background)
    self._draw = ImageDraw.Draw(self._image)
    for _ in range(rng.integers(2, clutter + 3)):
      color = self._color(0.08, 0.45) if plain else self._color()
      center = rng.uniform(0, size, 2)
      self._thing(center, rng.uniform(0.05, 0.35, 2) * size, color)

  def figure(self, joints: np.ndarray, height: float, back: bool) -> np.ndarray:
    """Draws a figure; returns the box (x, y, w, h) of its head."""
    rng = self._rng
    at = dict(zip(mpii.NAMES, joints, strict=True))
    skin = tuple(int(255 * part) for part in _SKINS[rng.integers(len(_SKINS))])
    hair, shirt, shoes = (self._clothes() for _ in range(3))
    trousers = self._clothes()
    sleeves = skin if rng.random() < 0.4 else self._clothes()
    behind = {side: rng.random() < 0.25 for side in ("left", "right")}

    def arm(side):
      shoulder, elbow, wrist = (
        at[f"{side}_{joint}"] for joint in ("shoulder", "elbow", "wrist")
      )
      self._limb(shoulder, elbow, _THICK["arm"] * height, shirt)
      self._limb(elbow, wrist, _THICK["forearm"] * height, sleeves)

    for side, hides in behind.items():
      if hides:
        arm(side)
    for side in behind:
      hip, knee, ankle = (at[f"{side}_{j}"] for j in ("hip", "knee", "ankle"))
      self._limb(hip, knee, _THICK["thigh"] * height, trousers)
      self._limb(knee, ankle, _THICK["shank"] * height, trousers)
      self._disc(ankle, 0.045 * height, shoes)
    corners = ("left_shoulder", "right_shoulder", "right_hip", "left_hip")
    self._polygon([at[corner] for corner in corners], shirt, 0.03 * height)
    self._limb(at["thorax"], at["upper_neck"], 0.05 * height, skin)
    box = self._head(at["upper_neck"], at["head_top"], skin, hair, back)
    for side, hides in behind.items():
      if not hides:
        arm(side)
    return box

  def hide(self, joints: np.ndarray, share: float) -> np.ndarray:
    """Perhaps draws something before the figure; which joints it hides."""
    rng, hidden = self._rng, np.zeros(len(joints), bool)
    if rng.random() >= share:
      return hidden
    for _ in range(rng.integers(1, 3)):
      center = joints[rng.integers(len(joints))]
      center = center + rng.normal(0, 0.03 * self._size, 2)
      extent = rng.uniform(0.08, 0.22, 2) * self._size
      hidden |= self._thing(center, extent, self._color(), joints, bar=False)
    return hidden

  def finished(self) -> np.ndarray:
    """The picture, uint8 [size, size, 3], with gain and noise of a camera."""
    small = np.asarray(self._image.reduce(_FINE), float)
    small = small * self._rng.uniform(0.8, 1.2)
    small += self._rng.normal(0, 8, small.shape)
    return np.clip(np.rint(small), 0, 255).astype(np.uint8)

  def _clothes(self) -> Color:
    return self._color(0.6, 1.0) if self._plain else self._color()

  def _color(self, low: float = 0.1, high: float = 1.0) -> Color:
    rng = self._rng
    red, green, blue = colorsys.hsv_to_rgb(
      rng.random(), rng.uniform(0.1, 0.9), rng.uniform(low, high)
    )
    return int(255 * red), int(255 * green), int(255 * blue)

  def _points(self, points) -> list[tuple[float, float]]:
    """Coordinates in the fine picture; a pixel's middle stays its middle."""
    return [tuple(_FINE * (np.asarray(p) + 0.5) - 0.5) for p in points]

  def _thing(self, center, extent, color, joints=None, bar=True) -> np.ndarray:
    """A rectangle, an ellipse or a bar; which joints lie under it."""
    kind = self._rng.integers(3 if bar else 2)
    if kind == 2:
      extent = np.array([self._size, 0.06 * self._size])[
        :: self._rng.choice((1, -1))
      ]
    low, high = center - extent / 2, center + extent / 2
    corners = [value for p in self._points((low, high)) for value in p]
    draw = self._draw.ellipse if kind == 1 else self._draw.rectangle
    draw(corners, fill=color)
    if joints is None:
      return np.zeros(0, bool)
    relative = (joints - center) / (extent / 2)
    if kind == 1:
      return np.sum(np.square(relative), axis=1) <= 1
    return np.all(np.abs(relative) <= 1, axis=1)

  def _limb(self, start, end, width, color) -> None:
    (x0, y0), (x1, y1) = self._points((start, end))
    thick = max(1, round(_FINE * width))
    self._draw.line((x0, y0, x1, y1), fill=color, width=thick)
    for point in (start, end):
      self._disc(point, width / 2, color)

  def _disc(self, center, radius, color) -> None:
    ((x, y),) = self._points((center,))
    r = _FINE * radius
    self._draw.ellipse((x - r, y - r, x + r, y + r), fill=color)

  def _polygon(self, corners, color, rounding) -> None:
    self._draw.polygon(self._points(corners), fill=color)
    for a, b in zip(corners, [*corners[1:], corners[0]], strict=True):
      self._limb(a, b, rounding, color)

  def _head(self, neck, top, skin, hair, back) -> np.ndarray:
    """An ellipse from neck to top, with a face or all hair."""
    axis = top - neck
    length = np.linalg.norm(axis)
    up = axis / length
    across = np.array([-up[1], up[0]])
    middle, width = (neck + top) / 2, _HEAD_WIDTH * length
    angle = np.linspace(0, 2 * np.pi, 40)

    def outline(first, last, grow=1.0):
      turns = angle[(angle >= first) & (angle <= last)]
      return [
        middle
        + grow * np.cos(t) * width / 2 * across
        + grow * np.sin(t) * length / 2 * up
        for t in turns
      ]

    whole = outline(0, 2 * np.pi)
    self._draw.polygon(self._points(whole), fill=hair if back else skin)
    if not back:
      # A cap on the upper part, and two eyes below it.
      cap = outline(0.12 * np.pi, 0.88 * np.pi, 1.03)
      self._draw.polygon(self._points(cap), fill=hair)
      for sign in (-1, 1):
        eye = middle + sign * 0.2 * width * across + 0.02 * length * up
        self._disc(eye, max(0.06 * length, 0.4), (20, 20, 30))
    points = np.array(whole)
    low, high = points.min(axis=0), points.max(axis=0)
    return np.array([*low, *(high - low)])
