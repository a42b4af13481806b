"""TFRECORD files and tf.train.Example messages, read without TensorFlow."""

from collections.abc import Iterator
import mmap
import pathlib
import struct

import google_crc32c

from okd_jax.errors import DataError
from okd_jax.storage import files
from okd_jax.storage.paths import Path

# Is added to checksums, so that those of data with checksums in them differ.
_MASK = 0xA282EAD8


def content(path: Path) -> bytes:
  """Reads a file, on this machine or in a bucket.

  Raises:
    DataError: if it does not exist, or is damaged on the disk.
    UnreachableError: if the bucket cannot be read.
  """
  try:
    return files.content(path)
  except OSError as error:
    raise DataError(
      f"{path} cannot be read ({error}); remove the folder to prepare it again."
    ) from error


def split(data: bytes) -> Iterator[bytes]:
  """Yields the records of the content of a TFRECORD file.

  Raises:
    ValueError: if a record is damaged.
  """
  for start, stop in _records(data):
    record = data[start:stop]
    _check(record, data, stop)
    yield record


def locate(
  path: pathlib.Path, image_key: str, label_key: str, *, whole: bool = False
) -> Iterator[tuple[int, int, int]]:
  """Yields where the encoded images of a TFRECORD file are, and their labels.

  Args:
    path: the file.
    image_key: name of the feature that is the image.
    label_key: name of the feature that is the label.
    whole: whether records are read as a whole, to compare their checksums;
      otherwise the images themselves are not read.

  Yields:
    Offset of an image in the file, its length, and its label.

  Raises:
    ValueError: if a record is damaged or lacks one of the two features.
  """
  if not path.stat().st_size:
    return
  with (
    path.open("rb") as file,
    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
  ):
    if not whole:
      # Otherwise every look at a record would read its neighbourhood too.
      data.madvise(mmap.MADV_RANDOM)
    for start, stop in _records(data):
      if whole:
        _check(data[start:stop], data, stop)
      image, label = _locate_in_example(data, start, stop, image_key, label_key)
      yield *image, label


def _records(data: bytes | mmap.mmap) -> Iterator[tuple[int, int]]:
  """Where records begin and end: length (8), checksum (4), data, checksum (4).

  Only the checksums of the lengths are compared.
  """
  at = 0
  while at < len(data):
    if at + 16 > len(data):
      raise ValueError("the file ends in a record")
    length = data[at : at + 8]
    _check(length, data, at + 8)
    start = at + 12
    stop = start + int.from_bytes(length, "little")
    if stop + 4 > len(data):
      raise ValueError("the file ends in a record")
    yield start, stop
    at = stop + 4


def _check(part: bytes, data: bytes | mmap.mmap, at: int) -> None:
  """Raises ValueError unless the checksum at a place is that of a part."""
  crc = google_crc32c.value(part)
  masked = ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF
  if (masked,) != struct.unpack_from("<I", data, at):
    raise ValueError("a checksum is wrong")


def _locate_in_example(data, start, stop, image_key, label_key):
  image = label = None
  for _, *features in _spans(data, start, stop):
    for _, *entry in _spans(data, *features):
      parts = {n: (a, b) for n, a, b in _spans(data, *entry)}
      name = bytes(data[slice(*parts[1])]).decode()
      if name not in (image_key, label_key):
        continue
      for _, *items in _spans(data, *parts[2]):
        for _, a, b in _spans(data, *items):
          if name == image_key:
            image = a, b - a
          else:
            (label,) = _integers(data[a:b])
  if image is None or label is None:
    raise ValueError(f"a record has no {image_key} or no {label_key}")
  return image, label


def parse_example(record: bytes) -> dict[str, list]:
  """Reads the values of a serialised tf.train.Example.

  Example{1: Features{1: repeated entry{1: name, 2: Feature}}}, where a Feature
  is {1: BytesList{1}} or {3: Int64List{1}}. Lists of floats are left out.
  """
  values: dict[str, list] = {}
  for _, features in _fields(record):
    for _, entry in _fields(features):
      parts = dict(_fields(entry))
      for kind, items in _fields(parts.get(2, b"")):
        found = [value for _, value in _fields(items)]
        values[parts[1].decode()] = (
          [n for part in found for n in _integers(part)] if kind == 3 else found
        )
  return values


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
  """Yields (number, contents) of the length-delimited fields of a message.

  A number outside a packed list is returned as its bytes, like a list of one.
  """
  for number, start, stop in _spans(data, 0, len(data)):
    yield number, data[start:stop]


def _spans(
  data: bytes | mmap.mmap, at: int, stop: int
) -> Iterator[tuple[int, int, int]]:
  """Yields (number, start, stop) of the fields of data[at:stop]."""
  while at < stop:
    tag, at = _varint(data, at)
    start = at
    if tag & 7 == 0:
      _, at = _varint(data, at)
    elif tag & 7 == 2:
      length, start = _varint(data, at)
      at = start + length
    elif tag & 7 in (1, 5):
      at += 8 if tag & 7 == 1 else 4
    else:
      raise ValueError(f"wire type {tag & 7}")
    if at > stop:
      raise ValueError("field ends after its message")
    yield tag >> 3, start, at


def _integers(data: bytes) -> Iterator[int]:
  at = 0
  while at < len(data):
    value, at = _varint(data, at)
    yield value - (1 << 64) if value >> 63 else value


def _varint(data: bytes | mmap.mmap, at: int) -> tuple[int, int]:
  value = shift = 0
  while True:
    byte = data[at]
    value |= (byte & 127) << shift
    at += 1
    shift += 7
    if byte < 128:
      return value, at
