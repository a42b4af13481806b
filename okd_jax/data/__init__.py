"""Data: sources of batches, their order, and augmentation.

`make` builds a source from a configuration. Data that is missing, damaged or
not as expected raises `DataError`; a wrong configuration raises `ValueError`.
"""

import dataclasses
import difflib
from typing import Any

from jax.sharding import Mesh
import numpy as np

from okd_jax.data.augment import augment, normalize
from okd_jax.data.info import DataInfo, KNOWN
from okd_jax.data.sources.source import Batching, divide, Source

__all__ = [
  "Config",
  "DataInfo",
  "Source",
  "augment",
  "check",
  "division",
  "make",
  "normalize",
]

_FOLDER = "folder:"


@dataclasses.dataclass(frozen=True)
class Config:
  """What to train on.

  Attributes:
    name: digits, fashion_mnist, cifar10, cifar100, any image-classification
      name of TensorFlow Datasets (`name` or `name/config`), or "folder:PATH".
    source: "memory", on the device; "tfds", through `tf.data` from host memory;
      or "stream", decoded and cropped as it is read, for large images.
    dir: where prepared copies or the publisher's files are; "" is the folder
      of TensorFlow Datasets (TFDS_DATA_DIR, or ~/tensorflow_datasets).
    train_examples: size of a fixed training subset, each class in proportion;
      0 for all.
    validation: fraction of the training split held out, the same in every run.
    test_fraction: fraction held out of a data set without a test split; 0 to
      train on everything and test on nothing.
    image_size: to which images of varying size are resized; with "stream" the
      size of the crops.
    download: whether a missing data set may be downloaded.
    flip: whether images may be mirrored at random, where the data set is not
      known to forbid it, as sets of characters do.
    exif: whether pictures are turned as EXIF says. A run that has begun keeps
      its own value; those of earlier releases did not turn them.
  """

  name: str = "digits"
  source: str = "memory"
  dir: str = ""
  train_examples: int = 0
  validation: float = 0.0
  test_fraction: float = 0.2
  image_size: int = 32
  download: bool = True
  flip: bool = True
  exif: bool = True


def check(config_data: Any) -> Config:
  """Checks a configuration without reading data or importing TensorFlow.

  Args:
    config_data: a `Config`, or any mapping with some of its keys.

  Returns:
    The configuration, completed by defaults.

  Raises:
    ValueError: with value, expectation and remedy.
  """
  config = config_data
  if not isinstance(config, Config):
    given = dict(config_data)
    keys = [field.name for field in dataclasses.fields(Config)]
    if unknown := sorted(set(given) - set(keys)):
      raise ValueError(
        f"config.data.{unknown[0]} is unknown{_suggest(unknown[0], keys)}; the "
        f"keys are {', '.join(keys)}."
      )
    config = Config(**given)
  for field in dataclasses.fields(Config):
    kind = type(field.default)
    value = getattr(config, field.name)
    right = type(value) is kind or (kind is float and type(value) is int)
    _require(config, field.name, right, f"be of type {kind.__name__}")
  _require(
    config,
    "source",
    config.source in ("memory", "tfds", "stream"),
    "be 'memory', 'tfds' or 'stream'",
  )
  _require(
    config,
    "train_examples",
    config.train_examples >= 0,
    "be 0 (all) or the size of a subset",
  )
  _require(config, "validation", 0 <= config.validation < 1, "lie in [0, 1)")
  _require(
    config, "test_fraction", 0 <= config.test_fraction < 1, "lie in [0, 1)"
  )
  _require(config, "image_size", config.image_size >= 1, "be positive")
  if config.name == "digits":
    _require(
      config,
      "source",
      config.source == "memory",
      "be 'memory' for digits, which are part of scikit-learn",
    )
  elif config.name not in KNOWN and not config.name.startswith(_FOLDER):
    _check_name(config)
  return config


def make(
  config_data: Any,
  *,
  batch_size: int,
  eval_batch_size: int,
  seed: int,
  held_out: float = 0.0,
  num_views: int | None = None,
  mesh: Mesh | None = None,
) -> Source:
  """Makes the source of a configuration.

  Args:
    config_data: as for `check`.
    batch_size: of training, over all devices.
    eval_batch_size: of evaluation, over all devices.
    seed: of the order of training examples.
    held_out: fraction of each class excluded from training and given out as
      split "held_out".
    num_views: P, the views of a batch, for a source that draws them itself.
    mesh: with axes "data" and "peer"; None for the default device.

  Raises:
    ValueError: if a value is wrong.
    DataError: if the data is missing or damaged.
  """
  config = check(config_data)
  for what, size in (
    ("batch_size", batch_size),
    ("eval_batch_size", eval_batch_size),
  ):
    parts = mesh.shape["data"] if mesh else 1
    if size < 1 or size % parts:
      raise ValueError(
        f"{what}={size} must be a positive multiple of the data axis of the "
        f"mesh ({parts}); change one of them."
      )
  if seed < 0 or not 0 <= held_out < 1:
    raise ValueError(
      f"seed={seed} must not be negative and held_out={held_out} must lie in "
      "[0, 1); change them."
    )
  # Pillow, which readers need, is no part of the base install.
  from okd_jax.data.formats import listing
  from okd_jax.data.sources import memory, stream, tfdata as tfds

  data = _load(config)
  info = dataclasses.replace(
    data.info, flip=data.info.flip and config.flip, exif=config.exif
  )
  data = dataclasses.replace(data, info=info)
  positions = division(config, data, held_out)
  batching = Batching(
    batch_size=batch_size, eval_batch_size=eval_batch_size, seed=seed, mesh=mesh
  )
  source: Source
  if isinstance(data, listing.Listing):
    source = stream.StreamSource(
      data, positions, num_views=num_views, **batching
    )
  else:
    kind = memory.MemorySource if config.source == "memory" else tfds.TfdsSource
    source = kind(data, positions, **batching)
  source.notes = data.notes
  return source


def division(
  config: Config, data: Any, held_out: float = 0.0
) -> dict[str, np.ndarray]:
  """Positions of the examples of each split.

  Args:
    config: of the data.
    data: a `HostData` or a `Listing`.
    held_out: as for `make`.

  Raises:
    ValueError: if the configuration asks for what there is not.
  """
  num_train, num_own = len(data.train.labels), data.num_validation
  if num_own and config.validation:
    raise ValueError(
      f"config.data.validation={config.validation} must be 0, as "
      f"{config.name} has a validation split of its own; change it."
    )
  own = np.arange(num_train - num_own, num_train, dtype=np.int32)
  positions = divide(
    data.train.labels[: num_train - num_own],
    validation=config.validation,
    train_examples=config.train_examples,
    held_out=held_out,
  )
  if num_own:
    positions["validation"] = own
  positions["test"] = np.arange(data.info.num_test, dtype=np.int32)
  return positions


def _load(config: Config) -> Any:
  """Reads a data set (`HostData`), or lists its files (`Listing`)."""
  from okd_jax.data.formats import (
    folder,
    listing,
    prepare,
    publisher as readers,
    tfds as prepared,
  )
  from okd_jax.data.sources import tfdata as tfds

  name = config.name
  options = (config.image_size, config.test_fraction)
  if name == "digits":
    return readers.digits()
  if name.startswith(_FOLDER):
    path = name.removeprefix(_FOLDER)
    if config.source == "stream":
      return listing.from_folder(path, *options)
    return folder.read(path, *options, exif=config.exif)
  data_dir = prepared.data_dir(config.dir)
  files = readers.find(name, data_dir)
  copy = prepared.find(name, data_dir)
  if config.source == "memory" and files and not copy:
    return readers.read(name, files)
  if not copy:
    copy = prepare.prepare(name, data_dir, files, download=config.download)
  about = prepared.inspect(copy)
  if config.source == "stream":
    return listing.from_copy(name, about, *options)
  read = prepared.read if config.source == "memory" else tfds.read
  return read(name, about, *options, exif=config.exif)


def _check_name(config: Config) -> None:
  from okd_jax.data.formats import prepare, tfds as prepared

  if prepared.find(config.name, prepared.data_dir(config.dir)):
    return
  catalogue = prepare.known_names()
  base = config.name.split("/")[0]
  if base in catalogue:
    return
  names = sorted({*KNOWN, *catalogue})
  raise ValueError(
    f"config.data.name={config.name!r} is unknown{_suggest(base, names)}; "
    f"{', '.join(KNOWN)}, folder:PATH or a name of TensorFlow Datasets"
    f"{'' if catalogue else ' (not installed)'} was expected."
  )


def _require(config: Config, key: str, holds: bool, expectation: str) -> None:
  if not holds:
    raise ValueError(
      f"config.data.{key}={getattr(config, key)!r} must {expectation}; change "
      "it."
    )


def _suggest(word: str, words: list[str]) -> str:
  near = difflib.get_close_matches(word, words, n=1)
  return f", did you mean {near[0]!r}?" if near else ""
