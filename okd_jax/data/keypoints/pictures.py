"""Pictures of figures: the crop of each, with a margin for augmentation.

What is held of a picture is a window around one figure, upright and at the size
at which a network sees it. The crop of an evaluation is its middle, what the
published code makes of the whole picture but for the rounding of OpenCV; in
training it is turned, zoomed and mirrored from there.
"""

import dataclasses

import numpy as np
from PIL import Image

from okd_jax.data import images
from okd_jax.data.formats import tfds as prepared
from okd_jax.data.info import DataInfo, DataSet, HostData, Split
from okd_jax.data.keypoints import boxes, info as info_lib
from okd_jax.data.keypoints.figures import Figure, Joints, to_arrays
from okd_jax.data.keypoints.own import Set
from okd_jax.errors import DataError

# Those of ImageNet, as the published code has them.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Files:
  """The figures of a split, their pictures not yet read.

  Attributes:
    figures: N of them.
    labels: int32 [N], zeros: what examples are divided by.
    targets: of N figures.
    groups: int32 [N], a number of its own for every picture, whose figures stay
      together.
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
    name: as in the configuration.
    found: its annotations.
    size: of the crops.
    scale: of the augmentation, see `KeypointInfo`.
    rotation: likewise.
    sigma: of the heat maps, likewise.
  """
  width, height = size

  def files(*splits: str) -> Files:
    figures = [f for split in splits for f in found.splits.get(split, ())]
    targets = to_arrays(figures, len(found.names), size, found.info.torso)
    labels = np.zeros(len(figures), np.int32)
    return Files(tuple(figures), labels, targets, targets.image_id)

  train, test = files("train", "validation"), files("test")
  keypoints = dataclasses.replace(
    found.info,
    mean_pose=_mean_pose(files("train").targets),
    margin=info_lib.margin(size, scale, rotation),
    scale=scale,
    rotation=rotation,
    sigma=sigma,
  )
  info = DataInfo(
    name=name,
    num_classes=len(found.names),
    image_shape=(height, width, 3),
    mean=_MEAN,
    std=_STD,
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
    Split(
      _windows(files, listing.info), files.labels, files.targets, files.groups
    )
    for files in (listing.train, listing.test)
  )
  return HostData(
    listing.info,
    train,
    test,
    listing.num_validation,
    listing.notes,
    listing.files,
  )


def window(picture: np.ndarray, figure: Figure, info: DataInfo) -> np.ndarray:
  """The crop of a figure with its margin, uint8 [H, W, 3].

  Args:
    picture: uint8 [H, W, 3].
    figure: says where.
    info: says how large.
  """
  height, width = info.image_shape[:2]
  across, down = info.of_keypoints.margin
  step = boxes.SCALE_UNIT * figure.scale / width
  x = figure.center[0] - step * (width / 2 + across)
  y = figure.center[1] - step * (height / 2 + down)
  # Pillow counts from the corner of a pixel, not from its middle.
  shift = 0.5 - 0.5 * step
  drawn = Image.fromarray(picture).transform(
    (width + 2 * across, height + 2 * down),
    Image.Transform.AFFINE,
    (step, 0, x + shift, 0, step, y + shift),
    Image.Resampling.BILINEAR,
  )
  return np.asarray(drawn)


def decode(figure: Figure, *, exif: bool) -> np.ndarray:
  """The picture of a figure as uint8 [H, W, 3].

  Raises:
    DataError: if it cannot be read, or has not the size that it should have.
  """
  path = figure.picture
  try:
    picture = images.decode(path.read_bytes(), exif=exif)
  except (OSError, images.Undecodable) as error:
    raise DataError(
      f"{path} cannot be decoded ({error}); replace or remove the file."
    ) from error
  height, width = picture.shape[:2]
  if figure.size not in (None, (width, height)):
    raise DataError(
      f"{path} is {width} x {height}, and its annotations are for a picture of "
      f"{figure.size}; annotate the pictures that are used."
    )
  return picture


def _mean_pose(joints: Joints) -> tuple[tuple[float, float], ...]:
  """The mean place of every joint in the crops."""
  shares = (joints.visible > 0).astype(float)[..., None]
  total = np.sum(shares * joints.points, axis=0)
  mean = total / np.maximum(shares.sum(axis=0), 1)
  return tuple((float(x), float(y)) for x, y in mean)


def _windows(files: Files, info: DataInfo) -> np.ndarray:
  height, width = info.image_shape[:2]
  across, down = info.of_keypoints.margin
  shape = (len(files.figures), height + 2 * down, width + 2 * across, 3)
  pixels = prepared.allocate(info.name, shape)
  last, picture = None, np.zeros((1, 1, 3), np.uint8)
  for row, figure in zip(pixels, files.figures, strict=True):
    # Figures of one picture often follow each other.
    if figure.picture != last:
      last, picture = figure.picture, decode(figure, exif=info.exif)
    row[...] = window(picture, figure, info)
  return pixels
