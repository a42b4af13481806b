"""Makes the source of batches that a configuration describes."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from jax.sharding import Mesh
import numpy as np

from okd_jax.data import checks, order
from okd_jax.data.config import check, Config, FOLDER
from okd_jax.data.info import DataSet
from okd_jax.data.sources.source import Batching, divide, Source
from okd_jax.errors import ConfigError

# Classes that a note names.
_MOST_NAMED = 5


def make(
  config_data: Config | Mapping[str, Any],
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
    config_data: the configuration, as for `check`.
    batch_size: batch size of training, over all devices.
    eval_batch_size: batch size of evaluation, over all devices.
    seed: seed of the order of training examples.
    held_out: fraction of each class that is excluded from training and forms
      the split "held_out".
    num_views: number P of views of a batch, for a source that makes them
      itself.
    mesh: mesh with axes "data" and "peer"; None for the default device.

  Raises:
    ConfigError: if a value is wrong.
    DataError: if the data are missing or damaged.
  """
  config = check(config_data)
  for what, size in (
    ("batch_size", batch_size),
    ("eval_batch_size", eval_batch_size),
  ):
    parts = mesh.shape["data"] if mesh else 1
    if size < 1 or size % parts:
      raise ConfigError(
        f"{what}={size} must be a positive multiple of the data axis of the "
        f"mesh ({parts}); change one of them."
      )
  if seed < 0 or not 0 <= held_out < 1:
    raise ConfigError(
      f"seed={seed} must not be negative and held_out={held_out} must lie in "
      "[0, 1); change them."
    )
  if config.per_class:
    order.num_draws(batch_size, config.per_class)
  data = _load(config)
  info = dataclasses.replace(
    data.info,
    name=config.name,
    flip=data.info.flip and config.flip,
    # Of some sets it is known whether annotators saw pictures turned.
    exif=data.info.exif if config.of_keypoints else config.exif,
  )
  notes = (*data.notes, *untested(data))
  data = dataclasses.replace(data, info=info, notes=notes)
  positions = division(config, data, held_out)
  batching = Batching(
    batch_size=batch_size,
    eval_batch_size=eval_batch_size,
    seed=seed,
    mesh=mesh,
    per_class=config.per_class,
  )
  return _source(config, data, positions, num_views, batching)


def division(
  config: Config, data: DataSet[Any], held_out: float = 0.0
) -> dict[str, np.ndarray]:
  """Positions of the examples of each split.

  Args:
    config: configuration of the data.
    data: a `HostData` or a `Listing`.
    held_out: as for `make`.

  Raises:
    ConfigError: if the configuration asks for more than the data have.
    DataError: if a class has fewer than `per_class` training examples.
  """
  num_train, num_validation = len(data.train.labels), data.num_validation
  if num_validation and config.validation:
    raise ConfigError(
      f"config.data.validation={config.validation} must be 0, as "
      f"{config.name} has a validation split of its own; change it."
    )
  train, groups = num_train - num_validation, data.train.groups
  positions = divide(
    data.train.labels[:train],
    validation=config.validation,
    train_examples=config.train_examples,
    held_out=held_out,
    groups=None if groups is None else groups[:train],
  )
  labels, left = data.train.labels, data.train.labels[positions["train"]]
  if len(lost := np.setdiff1d(labels, left)):
    names = ", ".join(data.info.class_names[c] for c in lost[:10])
    raise ConfigError(
      f"config.data.validation={config.validation}, config.data.train_examples="
      f"{config.train_examples} and held_out={held_out} leave no training "
      f"example of {len(lost)} class(es): {names}; hold out less, use more "
      "examples, or add some to these classes."
    )
  if config.per_class:
    checks.check_draws(
      config.name, left, data.info.class_names, config.per_class
    )
  if num_validation:
    positions["validation"] = np.arange(train, num_train, dtype=np.int32)
  positions["test"] = np.arange(data.info.num_test, dtype=np.int32)
  return positions


def untested(data: DataSet[Any]) -> tuple[str, ...]:
  """A note if the test split lacks classes, as a fraction of few pictures."""
  if data.info.task != "classification" or not len(data.test.labels):
    return ()
  lost = np.setdiff1d(data.train.labels, data.test.labels)
  if not len(lost):
    return ()
  names = ", ".join(data.info.class_names[c] for c in lost[:_MOST_NAMED])
  more = max(0, len(lost) - _MOST_NAMED)
  rest = f" and {more} more" if more else ""
  return (f"classes without a test picture: {len(lost)} ({names}{rest})",)


def _source(
  config: Config,
  data: Any,
  positions: dict[str, np.ndarray],
  num_views: int | None,
  batching: Batching,
) -> Source:
  # Pillow, which readers need, is no part of the base install.
  from okd_jax.data.formats import listing
  from okd_jax.data.keypoints import pictures, stream as keypoint_stream
  from okd_jax.data.sources import memory, stream, tfdata as tfds

  if isinstance(data, pictures.Listing):
    return keypoint_stream.KeypointStream(data, positions, **batching)
  if isinstance(data, listing.Listing):
    return stream.StreamSource(data, positions, num_views=num_views, **batching)
  kind = memory.MemorySource if config.source == "memory" else tfds.TfdsSource
  return kind(data, positions, **batching)


def _load(config: Config) -> DataSet[Any]:
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
  if config.of_keypoints:
    from okd_jax.data.keypoints import load

    return load.load(config)
  if name == "digits":
    return readers.digits()
  if name.startswith(FOLDER):
    path = config.dir or name.removeprefix(FOLDER)
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
