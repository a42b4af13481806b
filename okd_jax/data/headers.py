"""Which pictures TensorFlow decodes as `images` does, told without decoding."""

import contextlib
import re
from typing import Literal

from PIL import ExifTags

from okd_jax.data import images, png

_JPEG, _END_OF_JPEG = b"\xff\xd8\xff", b"\xff\xd9"
_EXIF = b"Exif\0\0"
_XMP_ORIENTATION = b"tiff:Orientation"
# What makes a PNG more than its pixels: transparency, animation, orientation.
_PNG_EXTRAS = re.compile(
  rb"tRNS|acTL|eXIf|Raw profile type|XML:com\.adobe\.xmp|tiff:Orientation"
)


def is_plain(encoded: bytes, *, exif: bool = True) -> bool:
  """Whether TensorFlow's decoders give what `images.decode` gives.

  They do for whole JPEG and PNG of 8 bits, grey or in colour, without
  transparency or orientation. Nothing is decoded.
  """
  # Of damaged files `decode` says how.
  with contextlib.suppress(IndexError, ValueError):
    if encoded.startswith(_JPEG):
      return _plain_jpeg(encoded, exif)
    if encoded.startswith(png.SIGNATURE):
      return _plain_png(encoded)
  return False


def _plain_jpeg(encoded: bytes, exif: bool) -> bool:
  frame, orientations = b"", b""
  segments, pixels = _segments(encoded)
  for marker, content in segments:
    # Baseline, extended and progressive frames; the others are rare.
    if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
      if frame or marker > 0xC2:
        return False
      frame = content
    elif marker == 0xE1 and exif:
      if content.startswith(_EXIF) and not orientations:
        orientations = content
      elif content.startswith(_EXIF) or _XMP_ORIENTATION in content:
        return False
  bits, height, width, channels = (
    frame[0],
    *(int.from_bytes(frame[at : at + 2], "big") for at in (1, 3)),
    frame[5],
  )
  return (
    bits == 8
    and channels in (1, 3)
    and 0 < height * width <= images.most_pixels()
    # Without its end a picture may be decoded in part.
    and encoded.rfind(_END_OF_JPEG, pixels) >= 0
    and (not orientations or _orientation(orientations) == 1)
  )


def _segments(encoded: bytes) -> tuple[list[tuple[int, bytes]], int]:
  """Markers of a JPEG, each with its content, and where its pixels begin."""
  found: list[tuple[int, bytes]] = []
  at = 2
  while True:
    if encoded[at] != 0xFF:
      raise ValueError("not a marker")
    marker = encoded[at + 1]
    if marker == 0xFF:  # padding
      at += 1
      continue
    if marker == 0xDA:
      return found, at
    length = int.from_bytes(encoded[at + 2 : at + 4], "big")
    found.append((marker, encoded[at + 4 : at + 2 + length]))
    at += 2 + length


def _orientation(content: bytes) -> int:
  """The orientation in the EXIF data of a JPEG; 1 if there is none."""
  tiff = content[len(_EXIF) :]
  order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"

  def number(at: int, size: int) -> int:
    if at + size > len(tiff):
      raise ValueError("damaged EXIF")
    return int.from_bytes(tiff[at : at + size], order)

  first = number(4, 4)
  for entry in range(number(first, 2)):
    at = first + 2 + 12 * entry
    if number(at, 2) == ExifTags.Base.Orientation:
      return number(at + 8, 2)
  return 1


def _plain_png(encoded: bytes) -> bool:
  width, height = (
    int.from_bytes(encoded[at : at + 4], "big") for at in (16, 20)
  )
  bits, colours = encoded[24], encoded[25]
  return (
    encoded[12:16] == b"IHDR"
    and bits == 8
    # Grey and RGB, without a palette or an alpha channel.
    and colours in (0, 2)
    and 0 < height * width <= images.most_pixels()
    and not _PNG_EXTRAS.search(encoded)
    and png.is_sound(encoded)
  )
