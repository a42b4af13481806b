"""Drawn people for demonstrations, written in the format of COCO keypoints.

They have the joints of MPII and the same skeleton, with lengths from
anthropometric tables, in random poses, colours and surroundings. Left and right
can be told apart only by a visible face or hair, as in photographs.
"""

from collections.abc import Sequence
import dataclasses
import json
import math
import pathlib
import tempfile

import numpy as np
from PIL import Image

from okd_jax.data.keypoints import coco, mpii
from okd_jax.data.keypoints._drawing import Picture
from okd_jax.errors import DataError

SIZE = 96
COUNTS = {"train": 2000, "test": 300}
_SEEDS = {"train": 1, "test": 2}
# Lengths as shares of the standing height.
_TRUNK, _NECK, _HEAD = 0.288, 0.052, 0.130
_ARM, _THIGH, _SHANK = (0.186, 0.165), 0.245, 0.246
_SHOULDER, _HIP = 0.129, 0.080


@dataclasses.dataclass(frozen=True)
class Level:
  """How hard figures are to read.

  Attributes:
    back: share of figures seen from behind.
    hidden: share of figures with something in front of them.
    clutter: number of things behind a figure, from 2 to 2 + clutter.
    tilt: standard deviation of the angle at which a figure stands, in degrees.
    arms: how often arms hang, are stretched out, are raised.
    plain: whether clothes are bright and the background is dark.
  """

  back: float
  hidden: float
  clutter: int
  tilt: float
  arms: tuple[float, float, float]
  plain: bool


LEVELS = {
  "easy": Level(0.0, 0.3, 2, 6.0, (0.6, 0.3, 0.1), True),
  "normal": Level(0.25, 0.5, 6, 12.0, (0.5, 0.35, 0.15), False),
}


@dataclasses.dataclass(frozen=True)
class Drawn:
  """One picture with its figure, as `okd_jax.data.keypoints.figures` has it."""

  image: np.ndarray
  joints: np.ndarray
  visible: np.ndarray
  box: np.ndarray
  head_box: np.ndarray


def prepare(folder: pathlib.Path, level: str) -> pathlib.Path:
  """Draws a level into a folder, unless it is there already.

  Returns:
    The folder: pictures, and annotations of "train" and "test".

  Raises:
    DataError: if it cannot be written.
  """
  place = folder / "stickfolk" / level
  try:
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
      _draw(place)
  except OSError as error:
    raise DataError(
      f"{place} cannot be drawn ({error}); set config.data.dir to a folder "
      "that can be written."
    ) from error
  return place


def _draw(place: pathlib.Path) -> None:
  # Other runs, and other processes of this one, may draw it at the same time.
  with tempfile.TemporaryDirectory(dir=place.parent) as temporary:
    written = pathlib.Path(temporary) / place.name
    for split, count in COUNTS.items():
      write(written, split, place.name, count, _SEEDS[split])
    try:
      written.rename(place)
    except OSError:
      if not place.exists():
        raise


def write(
  folder: pathlib.Path, split: str, level: str, count: int, seed: int
) -> None:
  """Writes pictures, and annotations in COCO's format with head boxes.

  Args:
    folder: folder for annotations/SPLIT.json and images/.
    split: "train" or "test".
    level: a key of `LEVELS`.
    count: number of figures, each in a picture of its own.
    seed: random seed of the figures.
  """
  for name in ("annotations", "images"):
    (folder / name).mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(seed)
  images, annotations = [], []
  for number in range(1, count + 1):
    drawn = sample(rng, level=level)
    name = f"{split}_{number:05d}.png"
    Image.fromarray(drawn.image).save(folder / "images" / name)
    height, width = drawn.image.shape[:2]
    images.append(
      {"id": number, "file_name": name, "width": width, "height": height}
    )
    table = np.column_stack([drawn.joints, drawn.visible])
    table[drawn.visible == 0] = 0
    annotations.append(
      {
        "id": number,
        "image_id": number,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": np.round(drawn.box, 3).tolist(),
        "area": round(coco.AREA_SHARE * float(drawn.box[2] * drawn.box[3]), 3),
        "head_box": np.round(drawn.head_box, 3).tolist(),
        "num_keypoints": int(np.sum(drawn.visible > 0)),
        "keypoints": np.round(table, 3).ravel().tolist(),
      }
    )
  category = {
    "id": 1,
    "name": "person",
    "keypoints": mpii.NAMES,
    "skeleton": [[a + 1, b + 1] for a, b in mpii.INFO.bones],
  }
  content = {
    "images": images,
    "annotations": annotations,
    "categories": [category],
  }
  path = folder / "annotations" / f"{split}.json"
  path.write_text(json.dumps(content))


def sample(
  rng: np.random.Generator, size: int = SIZE, level: str = "normal"
) -> Drawn:
  """Draws one figure.

  Args:
    rng: random generator.
    size: width and height of the picture.
    level: a key of `LEVELS`.
  """
  chosen = LEVELS[level]
  height = rng.uniform(0.50, 0.78) * size
  back = rng.random() < chosen.back
  joints = _pose(rng, size, height, back, chosen)
  picture = Picture(rng, size, clutter=chosen.clutter, plain=chosen.plain)
  head_box = picture.figure(joints, height, back)
  hidden = picture.hide(joints, chosen.hidden)
  outside = np.any((joints < 0) | (joints > size - 1), axis=1)
  visible = np.where(outside, 0, np.where(hidden, 1, 2))
  low = np.clip(joints[~outside].min(axis=0) - 0.06 * height, 0, size - 1)
  high = np.clip(joints[~outside].max(axis=0) + 0.06 * height, 0, size - 1)
  box = np.array([*low, *(high - low)])
  return Drawn(picture.finished(), joints, visible, box, head_box)


def _turned(vector: Sequence[float], degrees: float) -> np.ndarray:
  angle = math.radians(degrees)
  cos, sin = math.cos(angle), math.sin(angle)
  x, y = vector
  return np.array([cos * x - sin * y, sin * x + cos * y])


def _pose(
  rng: np.random.Generator,
  size: int,
  height: float,
  back: bool,
  level: Level,
) -> np.ndarray:
  """Joints [16, 2] of a random pose."""
  tilt = rng.normal(0, level.tilt)
  lean = tilt + rng.normal(0, 10)
  width = math.cos(math.radians(rng.normal(0, 25)))
  # A person's own right is on the left of the picture, facing us.
  side = {"right": 1 if back else -1, "left": -1 if back else 1}
  at = {"pelvis": np.zeros(2)}
  at["thorax"] = _turned((0, -_TRUNK), lean)
  at["upper_neck"] = at["thorax"] + _turned((0, -_NECK), lean)
  nod = lean + rng.normal(0, 12)
  at["head_top"] = at["upper_neck"] + _turned((0, -_HEAD), nod)
  for name, sign in side.items():
    shoulder = at["thorax"] + _turned((sign * width * _SHOULDER, 0), lean)
    mean, spread = ((15, 18), (75, 30), (150, 20))[rng.choice(3, p=level.arms)]
    arm = rng.normal(mean, spread)
    fore = arm + rng.normal(20, 45)
    elbow = shoulder + _limb(rng, _ARM[0], -sign * arm + lean)
    at[f"{name}_shoulder"], at[f"{name}_elbow"] = shoulder, elbow
    at[f"{name}_wrist"] = elbow + _limb(rng, _ARM[1], -sign * fore + lean)
    hip = _turned((sign * width * _HIP, 0), tilt)
    thigh = rng.normal(8, 14)
    shank = thigh - abs(rng.normal(3, 16))
    knee = hip + _limb(rng, _THIGH, -sign * thigh + tilt)
    at[f"{name}_hip"], at[f"{name}_knee"] = hip, knee
    at[f"{name}_ankle"] = knee + _limb(rng, _SHANK, -sign * shank + tilt)
  joints = height * np.array([at[name] for name in mpii.NAMES])
  middle = (joints.min(axis=0) + joints.max(axis=0)) / 2
  jitter = rng.uniform(-0.1, 0.1, 2) * size
  return joints - middle + (size - 1) / 2 + jitter


def _limb(rng: np.random.Generator, length: float, angle: float) -> np.ndarray:
  """A hanging limb, turned, and seen somewhat from the front."""
  return _turned((0, length * rng.uniform(0.75, 1)), angle)
