"""Data sets whose images are read when they are needed."""

import dataclasses

from okd_jax.data.checks import check_every_class, check_labels
from okd_jax.data.formats import (
  finder,
  fingerprint,
  shards,
  stored,
  tested,
  tfds as prepared,
)
from okd_jax.data.formats.stored import Files
from okd_jax.data.info import (
  DataInfo,
  DataSet,
  IMAGENET_MEAN,
  IMAGENET_STD,
  may_flip,
)


class Listing(DataSet[Files]):
  """Pictures in files."""


def from_folder(path: str, image_size: int, test_fraction: float) -> Listing:
  """Lists a folder of class folders, of the structure of `folder.read`."""
  found = finder.find(path)
  lines = fingerprint.describe(
    found.root, found.files, found.seen.sums, found.seen.sizes
  )
  listing = of_found(f"folder:{path}", found, image_size, test_fraction)
  names = {
    "train": listing.train.image_names,
    "test": listing.test.image_names,
  }
  return dataclasses.replace(listing, files=lines, image_names=names)


def of_found(
  name: str, found: finder.Found, image_size: int, test_fraction: float
) -> Listing:
  """Lists the pictures of a folder, whether or not they can be read."""
  train, test, validation = stored.of_folder(found, test_fraction)
  listing = _list(name, train, test, found.class_names, image_size)
  listing = dataclasses.replace(listing, notes=found.notes)
  if validation is None:
    return listing
  return dataclasses.replace(
    listing,
    train=listing.train.join(validation),
    num_validation=len(validation.labels),
  )


def from_copy(
  name: str, copy: prepared.Copy, image_size: int, test_fraction: float
) -> Listing:
  """Finds the images in a copy that TensorFlow Datasets has prepared.

  Raises:
    DataError: if the copy is damaged, or in a bucket and has no index.
  """
  images = shards.images(copy)
  test = tested.first_known(copy.shards, images)
  train, test = stored.train_and_test(images("train"), test, test_fraction)
  return _list(name, train, test, copy.class_names, image_size)


def _list(name, train, test, class_names, image_size):
  for split, files in (("train", train), ("test", test)):
    check_labels(f"{name}/{split}", files.labels, len(class_names))
  check_every_class(name, train.labels, class_names)
  info = DataInfo(
    name=name,
    num_classes=len(class_names),
    image_shape=(image_size, image_size, 3),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    pad=0,
    flip=may_flip(name),
    num_train=len(train.labels),
    num_test=len(test.labels),
    class_names=class_names,
    resized_crop=True,
  )
  return Listing(info, train, test)
