"""Pictures of figures: the crop of each, with a margin for augmentation.

Of each picture a window around one figure is kept, upright and at the size at
which a network sees it. The crop for evaluation is the middle of this window;
except for the rounding of OpenCV, it is what the published code computes from
the whole picture. For training the window is turned, zoomed and mirrored.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import functools

import numpy as np
from PIL import Image

from okd_jax.data import images
from okd_jax.data.formats import tfds as prepared
from okd_jax.data.info import (
  DataInfo,
  DataSet,
  HostData,
  IMAGENET_MEAN,
  IMAGENET_STD,
  Split,
)
from okd_jax.data.keypoints import boxes, info as info_lib
from okd_jax.data.keypoints.figures import Figure, Joints, to_arrays
from okd_jax.data.keypoints.own import Set
from okd_jax.errors import DataError
from okd_jax.storage import files


@dataclasses.dataclass(frozen=True)
class Files:
  """The figures of a split, their pictures not yet read.

  Attributes:
    figures: the N figures.
    labels: int32 [N], zeros, as all examples are of one kind.
    targets: targets of the N figures.
    groups: int32 [N], the number of the picture, whose figures stay together.
  """

  figures: tuple[Figure, ...]
  labels: np.ndarray
  targets: Joints
  groups: np.ndarray


class Listing(DataSet[Files]):
  """Figures in pictures on disk."""


def describe(
  name: str,
  found: Set,
  size: boxes.Size,
  *,
  scale: float,
  rotation: float,
  sigma: float,
) -> Listing:
  """A data set for crops of (width, height).

  Args:
    name: name of the data set, as in the configuration.
    found: its annotations.
    size: (width, height) of the crops.
    scale: random zoom of the augmentation, see `KeypointInfo`.
    rotation: random angle of the augmentation, see `KeypointInfo`.
    sigma: width of the Gaussians in heat maps, see `KeypointInfo`.
  """
  width, height = size

  def listed(*splits: str) -> Files:
    figures = [f for split in splits for f in found.splits.get(split, ())]
    targets = to_arrays(figures, len(found.names), size, found.info.torso)
    labels = np.zeros(len(figures), np.int32)
    return Files(tuple(figures), labels, targets, targets.image_id)

  train, test = listed("train", "validation"), listed("test")
  keypoints = dataclasses.replace(
    found.info,
    mean_pose=_mean_pose(listed("train").targets),
    margin=info_lib.margin(size, scale, rotation),
    scale=scale,
    rotation=rotation,
    sigma=sigma,
  )
  info = DataInfo(
    name=name,
    num_classes=len(found.names),
    image_shape=(height, width, 3),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    pad=0,
    flip=found.flip,
    num_train=len(train.labels),
    num_test=len(test.labels),
    class_names=found.names,
    task="keypoints",
    exif=found.exif,
    keypoints=keypoints,
  )
  num_validation = len(found.splits.get("validation", ()))
  return Listing(info, train, test, num_validation, found.notes, found.files)


def read(listing: Listing) -> HostData:
  """Reads the pictures of a data set into memory.

  Raises:
    DataError: naming a picture that cannot be read or has another size than the
      annotations say.
  """
  train, test = (
    Split(_windows(part, listing.info), part.labels, part.targets, part.groups)
    for part in (listing.train, listing.test)
  )
  return HostData(
    listing.info,
    train,
    test,
    listing.num_validation,
    listing.notes,
    listing.files,
  )


def windows(figures: Sequence[Figure], info: DataInfo) -> np.ndarray:
  """The crops of figures with their margins, uint8 [N, H, W, 3].

  Pictures in a bucket are read at the same time, and each of them once.

  Args:
    figures: the N figures.
    info: facts about the data set, with the size of the crops.

  Raises:
    DataError: if a picture cannot be read, or has not the size that it should
      have.
    UnreachableError: if it is in a bucket that cannot be reached.
  """
  height, width = info.image_shape[:2]
  margin = info.of_keypoints.margin
  paths = list(dict.fromkeys(figure.picture for figure in figures))
  read = dict(zip(paths, files.contents(paths), strict=True))
  last, picture = None, np.zeros((1, 1, 3), np.uint8)
  made = []
  for figure in figures:
    if figure.picture != last:
      last = figure.picture
      picture = _decoded(figure, read[last], exif=info.exif)
    size = width, height
    made.append(crop(picture, figure.center, figure.scale, size, margin))
  return np.stack(made)


def crop(
  picture: np.ndarray,
  center: np.ndarray,
  scale: float,
  size: boxes.Size,
  margin: boxes.Size = (0, 0),
) -> np.ndarray:
  """A part of a picture, uint8 [height + 2 down, width + 2 across, 3].

  Args:
    picture: uint8 [H, W, 3].
    center: centre of the crop, (x, y).
    scale: width of the crop, in units of 200 pixels.
    size: (width, height) of the crop.
    margin: pixels around the crop, (across, down).
  """
  (width, height), (across, down) = size, margin
  step = boxes.SCALE_UNIT * scale / width
  x = center[0] - step * (width / 2 + across)
  y = center[1] - step * (height / 2 + down)
  # Pillow counts from the corner of a pixel, not from its middle.
  shift = 0.5 - 0.5 * step
  drawn = Image.fromarray(picture).transform(
    (width + 2 * across, height + 2 * down),
    Image.Transform.AFFINE,
    (step, 0, x + shift, 0, step, y + shift),
    Image.Resampling.BILINEAR,
  )
  return np.asarray(drawn)


def check(figures: Iterable[Figure], *, exif: bool) -> None:
  """Decodes the picture of every figure.

  Raises:
    DataError: if one cannot be read, or has not the size that it should have.
    UnreachableError: if it is in a bucket that cannot be reached.
  """

  def look(part: Sequence[Figure]) -> None:
    read = files.contents([figure.picture for figure in part])
    for figure, content in zip(part, read, strict=True):
      _decoded(figure, content, exif=exif)

  once = {figure.picture: figure for figure in figures}
  for _ in images.in_parts(look, list(once.values())):
    pass


def _decoded(
  figure: Figure, content: bytes | Exception, *, exif: bool
) -> np.ndarray:
  """The picture of a figure as uint8 [H, W, 3]."""
  path = figure.picture
  try:
    if isinstance(content, Exception):
      raise content
    picture = images.decode(content, exif=exif)
  except (OSError, images.Undecodable) as error:
    raise DataError(
      f"{path} cannot be decoded ({error}); replace or remove the file."
    ) from error
  height, width = picture.shape[:2]
  if figure.size not in (None, (width, height)):
    meant = " x ".join(map(str, figure.size))
    raise DataError(
      f"{path} is {width} x {height}, and its annotations are for a picture of "
      f"{meant}; annotate the pictures that are used, or change "
      "config.data.exif where width and height have changed places."
    )
  return picture


def _mean_pose(joints: Joints) -> tuple[tuple[float, float], ...]:
  """The mean place of every joint in the crops."""
  shares = (joints.visible > 0).astype(float)[..., None]
  total = np.sum(shares * joints.points, axis=0)
  mean = total / np.maximum(shares.sum(axis=0), 1)
  return tuple((float(x), float(y)) for x, y in mean)


def room(listed: Files, info: DataInfo) -> np.ndarray:
  """Makes room in memory for the windows of a split.

  Raises:
    DataError: if they are too many.
  """
  height, width = info.image_shape[:2]
  across, down = info.of_keypoints.margin
  shape = (len(listed.figures), height + 2 * down, width + 2 * across, 3)
  return prepared.allocate(info.name, shape)


def _windows(listed: Files, info: DataInfo) -> np.ndarray:
  pixels = room(listed, info)
  cut = functools.partial(windows, info=info)
  row = 0
  for part in images.in_parts(cut, listed.figures):
    pixels[row : row + len(part)] = part
    row += len(part)
  return pixels
