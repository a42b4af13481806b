"""Copies that TensorFlow Datasets has prepared, found and read with NumPy.

Neither TensorFlow nor TensorFlow Datasets is imported.
"""

from collections.abc import Callable
import dataclasses
import itertools
import json
import os
import re

import numpy as np

from okd_jax.data import images as pictures
from okd_jax.data.formats import tested, tfrecord as records
from okd_jax.data.info import describe, HostData, Split
from okd_jax.devices import host
from okd_jax.errors import ConfigError, DataError
from okd_jax.storage import bucket, files, paths
from okd_jax.storage.paths import Path

_FOLDER = "TFDS_DATA_DIR"
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_DTYPES = ("uint8", "uint16")
MAX_BYTES = 2**31  # of decoded images, a split
# Record files that are read before they are asked for.
_AHEAD = 2


def data_dir(configured: str) -> Path:
  """Returns the configured folder, or that of TensorFlow Datasets if "".

  Raises:
    ConfigError: if that is no path.
  """
  if configured:
    return paths.anywhere(configured)
  try:
    return paths.anywhere(os.environ.get(_FOLDER) or "~/tensorflow_datasets")
  except ConfigError as error:
    raise ConfigError(f"{_FOLDER}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Copy:
  """The metadata of a prepared copy of an image-classification data set.

  Attributes:
    path: folder of the copy.
    file_name: the data set's part of the names of its record files.
    shards: number of examples in each record file, by split.
    image_key: name of the image feature.
    label_key: name of the label feature.
    image_shape: (H, W, c), with None where it differs between images.
    class_names: one name per class.
  """

  path: Path
  file_name: str
  shards: dict[str, tuple[int, ...]]
  image_key: str
  label_key: str
  image_shape: tuple[int | None, ...]
  class_names: tuple[str, ...]

  def names(self, split: str) -> tuple[str, ...]:
    """Names of the record files of a split, one for each of `shards`."""
    count = len(self.shards[split])
    return tuple(
      f"{self.file_name}-{split}.tfrecord-{i:05d}-of-{count:05d}"
      for i in range(count)
    )

  def shape(self, image_size: int) -> tuple[int, int, int]:
    """The shape of images after those of varying size are resized."""
    height, width, channels = self.image_shape
    if height is None or width is None:
      height = width = image_size
    # Those with transparency become RGB.
    return height, width, 1 if channels == 1 else 3

  def buffer(self, split: str, image_size: int) -> np.ndarray:
    """Makes room for the decoded images of a split."""
    shape = (sum(self.shards[split]), *self.shape(image_size))
    return allocate(f"{self.path} ({split})", shape)


def allocate(where: str, shape: tuple[int, ...]) -> np.ndarray:
  """Makes an uint8 array, unless it would be too large to hold in memory."""
  size = int(np.prod(shape, dtype=np.int64))
  if size > MAX_BYTES:
    raise DataError(
      f"{where} takes {size / 2**30:.1f} GiB decoded; sets of at most "
      f"{MAX_BYTES / 2**30:.0f} GiB are held in memory. Choose "
      "config.data.source=stream, which reads them as they are needed, a "
      "smaller config.data.image_size if the sizes of the images differ, or "
      "another data set."
    )
  return np.empty(shape, np.uint8)


def find(name: str, folder: Path) -> Path | None:
  """Returns the newest prepared copy of `name` or `name/config` in a folder.

  Raises:
    DataError: if several configurations are prepared and none is named.
    UnreachableError: if the folder is in a bucket that cannot be reached.
  """
  with bucket.reached(folder):
    return _find(name, folder)


def _find(name: str, folder: Path) -> Path | None:
  root = folder / name
  versions = [
    path.parent
    for path in root.glob("*/dataset_info.json")
    if _VERSION.fullmatch(path.parent.name)
  ]
  if versions:
    return max(versions, key=lambda p: [int(n) for n in p.name.split(".")])
  configs = {
    path.parent.parent.name for path in root.glob("*/*/dataset_info.json")
  }
  if len(configs) > 1:
    raise DataError(
      f"{root} holds the configurations {', '.join(sorted(configs))}; name one "
      f"of them, for example config.data.name={name}/{min(configs)}."
    )
  return _find(f"{name}/{configs.pop()}", folder) if configs else None


def inspect(path: Path) -> Copy:
  """Reads the metadata of a copy.

  Raises:
    DataError: if the copy is not one of images with one label each.
  """
  try:
    about = json.loads(files.text(path / "dataset_info.json"))
    features = json.loads(files.text(path / "features.json"))
    features = features["featuresDict"]["features"]
    keys = about["supervisedKeys"]["tuple"]["items"]
    image_key, label_key = (key["featureKey"] for key in keys)
    image = features[image_key]["image"]
    dimensions, dtype = image["shape"]["dimensions"], image.get("dtype")
    num_classes = int(features[label_key]["classLabel"]["numClasses"])
    shards = {
      split["name"]: tuple(int(n) for n in split["shardLengths"])
      for split in about["splits"]
    }
    file_name = about["name"]
    file_format = about.get("fileFormat", "tfrecord")
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise DataError(
      f"{path} is not a prepared copy of an image-classification data set "
      f"({type(error).__name__}: {error}): dataset_info.json and features.json "
      "with one image and one label were expected. Choose another data set, "
      "or remove the folder to prepare it again."
    ) from error
  if file_format != "tfrecord":
    raise DataError(
      f"{path} is in the format {file_format}; tfrecord was expected. Prepare "
      "it again with TensorFlow Datasets' file_format='tfrecord', or convert "
      f"it: tfds convert_format --dataset_version_dir={path} --out_file_format="
      f"tfrecord --out_dir=OTHER/{file_name}/{path.name}"
    )
  # Floats are stored as the bytes of four channels, which are no colours.
  if dtype not in (None, *_DTYPES):
    raise DataError(
      f"{path} has images of the type {dtype}; {' or '.join(_DTYPES)} was "
      "expected. Choose another data set, or prepare one of such images."
    )
  if "train" not in shards:
    raise DataError(
      f"{path} has the splits {', '.join(shards)}; train was expected. Choose "
      "another data set."
    )
  names = path / f"{label_key}.labels.txt"
  class_names = tuple(str(i) for i in range(num_classes))
  if names.exists():
    class_names = tuple(files.text(names).splitlines())
  if len(class_names) != num_classes:
    raise DataError(
      f"{names} has {len(class_names)} lines; {num_classes} classes were "
      "expected. Remove the folder to prepare it again."
    )
  return Copy(
    path=path,
    file_name=file_name,
    shards=shards,
    image_key=image_key,
    label_key=label_key,
    # Unknown sizes are stored as -1.
    image_shape=tuple(int(d) if int(d) > 0 else None for d in dimensions),
    class_names=class_names,
  )


def read(
  name: str,
  copy: Copy,
  image_size: int,
  test_fraction: float,
  *,
  exif: bool = True,
) -> HostData:
  """Reads a whole copy.

  Args:
    name: name of the data set.
    copy: its metadata, as from `inspect`.
    image_size: size that images of varying size are resized to.
    test_fraction: fraction to test on, if the copy has no test split.
    exif: whether images are turned as their EXIF data say.

  Returns:
    The examples in their order on disk.
  """

  def of_split(split: str) -> Split:
    return _read_split(copy, split, image_size, exif)

  return divided(name, copy, of_split, test_fraction)


def divided(
  name: str, copy: Copy, read: Callable[[str], Split], test_fraction: float
) -> HostData:
  """The examples of a copy, for training and for tests.

  Args:
    name: name of the data set.
    copy: its metadata.
    read: returns the examples of a split.
    test_fraction: as for `read`.
  """
  train, test = read("train"), tested.first_known(copy.shards, read)
  if test is None:
    train, test = tested.hold_out(train, test_fraction)
  return describe(name, train, test, copy.class_names)


def _read_split(copy: Copy, split: str, image_size: int, exif: bool) -> Split:
  images = copy.buffer(split, image_size)
  labels = np.empty(len(images), np.int32)
  mode = "L" if images.shape[-1] == 1 else "RGB"
  at = 0
  lengths = copy.shards[split]
  shards = [copy.path / name for name in copy.names(split)]
  contents = host.in_threads(records.content, shards, _AHEAD)
  for file, length, content in zip(shards, lengths, contents, strict=True):
    count = 0
    try:
      for record in itertools.islice(records.split(content), length):
        example = records.parse_example(record)
        (encoded,) = example[copy.image_key]
        (labels[at],) = example[copy.label_key]
        images[at] = pictures.whole(encoded, mode, images.shape[1:3], exif=exif)
        at += 1
        count += 1
    except (KeyError, ValueError, IndexError, OSError, SyntaxError) as error:
      raise DataError(
        f"{file} is damaged in record {count} ({error!r}); remove the folder "
        "to prepare it again."
      ) from error
    if count != length:
      raise DataError(
        f"{file} holds {count} examples; {length} were expected. Remove the "
        "folder to prepare it again."
      )
  return Split(images, labels)
