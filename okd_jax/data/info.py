"""What is known about a data set: shapes, statistics, classes, augmentation."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, Generic, TypeVar

import numpy as np

from okd_jax.data.checks import check_every_class, check_split
from okd_jax.data.keypoints.info import KeypointInfo, tuples
from okd_jax.errors import DataError

Rows = TypeVar("Rows")

# Of pictures of anything; the published code of pose networks has them, too.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class DataInfo:
  """Facts about a data set.

  Attributes:
    name: name, as in the configuration.
    num_classes: number C of classes.
    image_shape: (height, width, channels).
    mean: of each channel of the training images scaled to [0, 1].
    std: standard deviation of each of these channels.
    pad: pixels of padding on each side before the random crop.
    flip: whether a horizontal flip keeps the class.
    num_train: size of the publisher's training split.
    num_test: size of the test split.
    class_names: one name per class.
    resized_crop: whether the source makes crops of random size and place,
      flipped at random, for training, and takes the centre of resized pictures
      for testing. Otherwise whole pictures are resized, and `augment` pads,
      crops and flips.
    task: the task of the targets, a module of `okd_jax.tasks`.
    exif: whether pictures are turned as their EXIF data say; earlier releases
      did not turn them.
    keypoints: facts about joints, for that task; joints are the classes.
  """

  name: str
  num_classes: int
  image_shape: tuple[int, int, int]
  mean: tuple[float, ...]
  std: tuple[float, ...]
  pad: int
  flip: bool
  num_train: int
  num_test: int
  class_names: tuple[str, ...]
  resized_crop: bool = False
  task: str = "classification"
  exif: bool = False
  keypoints: KeypointInfo | None = None

  @property
  def of_keypoints(self) -> KeypointInfo:
    """Facts about joints, if there are any."""
    assert self.keypoints is not None, "the data are of keypoints"
    return self.keypoints

  @classmethod
  def of_json(cls, saved: Mapping[str, Any]) -> "DataInfo":
    """Restores the result of `dataclasses.asdict` from JSON."""
    values = {name: tuples(value) for name, value in saved.items()}
    if values.get("keypoints") is not None:
      values["keypoints"] = KeypointInfo.of_json(saved["keypoints"])
    return cls(**values)


@dataclasses.dataclass(frozen=True)
class Split:
  """Examples in host memory.

  Attributes:
    images: uint8 [N, H, W, c].
    labels: int32 [N]; for other tasks than classification the kinds that are
      kept in proportion when examples are divided, by default a single one.
    targets: what is to be predicted, a tree of [N, ...]; None for the labels.
    groups: int [N], examples with the same number stay together when a split is
      divided; None if they need not.
  """

  images: np.ndarray
  labels: np.ndarray
  targets: Any = None
  groups: np.ndarray | None = None

  @property
  def predicted(self) -> Any:
    """What is to be predicted: the targets, or the labels."""
    return self.labels if self.targets is None else self.targets


@dataclasses.dataclass(frozen=True)
class DataSet(Generic[Rows]):
  """A data set: in memory, or as a list of files.

  Attributes:
    info: what is known about it.
    train: the training split, and after it the validation split.
    test: the test split, which may be empty.
    num_validation: size of the validation split.
    notes: sentences about what users may not expect.
    files: the files of pictures in folders, see `formats.fingerprint.describe`.
    image_names: path of the file of every image in "train" and "test", relative
      to the folder; {} if images are not files of a folder.
  """

  info: DataInfo
  train: Rows
  test: Rows
  num_validation: int = 0
  notes: tuple[str, ...] = ()
  files: tuple[str, ...] = ()
  image_names: Mapping[str, Sequence[str]] = dataclasses.field(
    default_factory=dict
  )


class HostData(DataSet[Split]):
  """A whole data set in host memory."""


_FASHION = (
  "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
)
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = """
  apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy
  bridge bus butterfly camel can castle caterpillar cattle chair chimpanzee
  clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
  flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
  leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
  oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
  poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
  shrew skunk skyscraper snail snake spider squirrel streetcar sunflower
  sweet_pepper table tank telephone television tiger tractor train trout tulip
  turtle wardrobe whale willow_tree wolf woman worm
"""

# Mean and deviation of CIFAR are those of the published code (Chen et al.,
# AAAI 2020); the others are measured on the training split. Padding is about
# the same share of the width as CIFAR's 4 of 32.
KNOWN = {
  info.name: info
  for info in (
    DataInfo(
      name="digits",
      num_classes=10,
      image_shape=(8, 8, 1),
      mean=(0.3048,),
      std=(0.3757,),
      pad=1,
      flip=False,
      num_train=1437,
      num_test=360,
      class_names=tuple("0123456789"),
    ),
    DataInfo(
      name="fashion_mnist",
      num_classes=10,
      image_shape=(28, 28, 1),
      mean=(0.2860,),
      std=(0.3530,),
      pad=2,
      flip=True,
      num_train=60_000,
      num_test=10_000,
      class_names=tuple(_FASHION.split(",")),
    ),
    DataInfo(
      name="cifar10",
      num_classes=10,
      image_shape=(32, 32, 3),
      mean=(0.4914, 0.4822, 0.4465),
      std=(0.2470, 0.2435, 0.2616),
      pad=4,
      flip=True,
      num_train=50_000,
      num_test=10_000,
      class_names=tuple(_CIFAR10.split()),
    ),
    DataInfo(
      name="cifar100",
      num_classes=100,
      image_shape=(32, 32, 3),
      mean=(0.5071, 0.4865, 0.4409),
      std=(0.2673, 0.2564, 0.2762),
      pad=4,
      flip=True,
      num_train=50_000,
      num_test=10_000,
      class_names=tuple(_CIFAR100.split()),
    ),
  )
}

# A mirrored character is another character.
_CHARACTERS = (
  "mnist",
  "emnist",
  "kmnist",
  "binary_alpha_digits",
  "cmaterdb",
  "mnist_corrupted",
  "omniglot",
  "quickdraw_bitmap",
  "svhn_cropped",
)
# Enough for four digits of mean and deviation.
_MEASURED = 10_000


def measure(
  images: np.ndarray,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and standard deviation of the channels of uint8 [N, H, W, c].

  At most 10,000 images, evenly spread, are used.
  """
  some = images[:: -(-len(images) // _MEASURED)]
  values = np.arange(256) / 255
  mean, std = [], []
  for channel in range(images.shape[-1]):
    counts = np.bincount(some[..., channel].ravel(), minlength=256)
    share = counts / counts.sum()
    center = float(share @ values)
    mean.append(center)
    std.append(float(np.sqrt(share @ (values - center) ** 2)))
  # A constant channel would be divided by zero.
  return tuple(mean), tuple(max(s, 1 / 255) for s in std)


def describe(
  name: str, train: Split, test: Split, class_names: tuple[str, ...]
) -> HostData:
  """Checks the examples of a data set and adds what is known about it.

  Args:
    name: a key of `KNOWN`, or any other name, for which mean and standard
      deviation are measured.
    train: the training split.
    test: the test split, which may be empty.
    class_names: one name per class.

  Returns:
    The splits with their `DataInfo`.

  Raises:
    DataError: naming the split and the rule that it breaks.
  """
  num_classes = len(class_names)
  for which, split in (("train", train), ("test", test)):
    where, may_be_empty = f"{name}/{which}", which == "test"
    check_split(where, split.images, split.labels, num_classes, may_be_empty)
  check_every_class(name, train.labels, class_names)
  if train.images.shape[1:] != test.images.shape[1:]:
    raise DataError(
      f"{name} has images of shape {train.images.shape[1:]} in train and "
      f"{test.images.shape[1:]} in test; both must be equal."
    )
  num_train, num_test = len(train.labels), len(test.labels)
  if name in KNOWN:
    info = dataclasses.replace(
      KNOWN[name], num_train=num_train, num_test=num_test
    )
    found = (train.images.shape[1:], num_classes)
    if found != (info.image_shape, info.num_classes):
      raise DataError(
        f"{name} has images of shape {found[0]} in {found[1]} classes; "
        f"{info.image_shape} in {info.num_classes} were expected. Remove the "
        "damaged copy and prepare it again."
      )
    return HostData(info, train, test)
  mean, std = measure(train.images)
  height, width, channels = train.images.shape[1:]
  info = DataInfo(
    name=name,
    num_classes=num_classes,
    image_shape=(height, width, channels),
    mean=mean,
    std=std,
    pad=round(min(height, width) / 8),
    flip=may_flip(name),
    num_train=num_train,
    num_test=num_test,
    class_names=class_names,
  )
  return HostData(info, train, test)


def may_flip(name: str) -> bool:
  """Whether a horizontal flip keeps the classes of a data set."""
  return name.split("/")[0] not in _CHARACTERS
