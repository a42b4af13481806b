"""The one decoder: what a picture's file means, everywhere.

A file becomes the RGB that Pillow makes of it, to one grey level, in memory, in
a stream, in evaluation, in `predict` and in `data`; or it is refused. The rules
where Pillow leaves a choice:

- Orientation: pictures are turned as people see them, as EXIF (or XMP) says.
- Transparency is left out: colours are those in the file, whatever covers them.
- Grey of 16 bits is scaled: 65535 is white.
- Grey of 32 bits, whole or floating, does not say what is white. Grey levels of
  0 to 255 are taken, other values refused.
- Of several frames the first one is taken.
"""

import contextlib
import functools
import io
import os
import re
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# Shorter side of a test image to the side of the crop: 256 to 224.
MARGIN = 256 / 224
# Raises the number of pixels of the largest picture that is read.
MOST_PIXELS = "OKD_JAX_MAX_PIXELS"

# Drawings, films and measurements, some of which start other programs.
_NO_PICTURES = frozenset("BUFR EPS FITS GRIB HDF5 MPEG PDF WMF".split())
# Formats whose first bytes say so beyond doubt.
_CERTAIN = (
  *("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO"),
  *("PNG", "PPM", "QOI", "TIFF", "WEBP"),
)
# What opens as mode I in these formats has 16 bits.
_SHORT_AS_I = ("PNG", "PPM")

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_EXIF = b"Exif\0\0"
_XMP_ORIENTATION = b"tiff:Orientation"
# What makes a PNG more than its pixels: transparency, animation, orientation.
_PNG_EXTRAS = re.compile(
  rb"tRNS|acTL|eXIf|Raw profile type|XML:com\.adobe\.xmp|tiff:Orientation"
)


class Undecodable(ValueError):
  """A file that is no picture, or none that is read here; says why."""


@functools.cache
def formats() -> tuple[str, ...]:
  """Pillow's formats that are read, the most frequent ones first."""
  Image.init()
  names = dict.fromkeys(("JPEG", "PNG", *Image.ID))
  return tuple(name for name in names if name not in _NO_PICTURES)


@functools.cache
def suffixes() -> frozenset[str]:
  """Endings of the names of picture files, in lower case."""
  known = set(formats())
  return frozenset(
    suffix
    for suffix, name in Image.registered_extensions().items()
    if name in known
  )


def is_picture(file: str | io.BytesIO) -> bool:
  """Whether the content of a file is a picture, whatever its name."""
  known = [name for name in _CERTAIN if name in formats()]
  try:
    with Image.open(file, formats=known):
      return True
  # Pillow raises anything on files that only begin like a picture.
  except Exception:
    return False


def decode(encoded: bytes, *, exif: bool = True) -> np.ndarray:
  """Decodes a picture to uint8 [H, W, 3].

  Args:
    encoded: the content of the file.
    exif: whether to turn it as its EXIF data say; earlier releases did not.

  Raises:
    Undecodable: if it cannot be read.
  """
  return np.asarray(_rgb(encoded, exif))


def whole(
  encoded: bytes, mode: str, size: tuple[int, ...], *, exif: bool = True
) -> np.ndarray:
  """Decodes a picture and resizes all of it.

  Args:
    encoded: the content of the file.
    mode: "RGB", or "L" for grey.
    size: (H, W).
    exif: as for `decode`.

  Returns:
    uint8 [H, W, c].

  Raises:
    Undecodable: if it cannot be read.
  """
  image = _rgb(encoded, exif).convert(mode)
  if image.size != (size[1], size[0]):
    image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
  return np.asarray(image).reshape(*size, -1)


def center(
  encoded: bytes, mode: str, size: tuple[int, ...], *, exif: bool = True
) -> np.ndarray:
  """The same as `whole`, for the centre that `crops.center_crop` takes."""
  image = _rgb(encoded, exif).convert(mode)
  short, side = round(size[0] * MARGIN), min(image.size)
  width, height = (short * length // side for length in image.size)
  image = image.resize((width, height), Image.Resampling.BILINEAR)
  left, top = round((width - size[1]) / 2), round((height - size[0]) / 2)
  cropped = image.crop((left, top, left + size[1], top + size[0]))
  return np.asarray(cropped).reshape(*size, -1)


def as_png(pixels: np.ndarray) -> bytes:
  """The content of a file that stores uint8 [H, W, 3] without loss."""
  content = io.BytesIO()
  Image.fromarray(pixels).save(content, "PNG", compress_level=0)
  return content.getvalue()


def is_plain(encoded: bytes, *, exif: bool = True) -> bool:
  """Whether TensorFlow's decoders give what `decode` gives.

  They do for JPEG and PNG of 8 bits, grey or in colour, without transparency
  or orientation. Only the header is read.
  """
  # Of damaged files `decode` says how.
  with contextlib.suppress(IndexError, ValueError):
    if encoded.startswith(_JPEG):
      return _plain_jpeg(encoded, exif)
    if encoded.startswith(_PNG):
      return _plain_png(encoded)
  return False


def _rgb(encoded: bytes, exif: bool) -> Image.Image:
  try:
    _limit()
    with Image.open(io.BytesIO(encoded), formats=formats()) as image:
      image.load()
      if exif:
        _turn_upright(image)
      return _as_rgb(image)
  except Undecodable:
    raise
  except UnidentifiedImageError as error:
    why = "it is no picture that can be read" if encoded else "it is empty"
    raise Undecodable(why) from error
  except Image.DecompressionBombError as error:
    raise Undecodable(
      f"it has more pixels than {_limit():,}, the limit of Pillow against "
      "decompression bombs. Make the picture smaller or, if you trust it, set "
      f"the environment variable {MOST_PIXELS} to the number of its pixels"
    ) from error
  # Every plugin of Pillow raises errors of its own on damaged files.
  except Exception as error:
    raise Undecodable(str(error) or type(error).__name__) from error


def _turn_upright(image: Image.Image) -> None:
  # Damaged EXIF says nothing; the picture is as good as without.
  with contextlib.suppress(Exception):
    ImageOps.exif_transpose(image, in_place=True)


def _as_rgb(image: Image.Image) -> Image.Image:
  if image.mode.startswith("I;16") or (
    image.mode == "I" and image.format in _SHORT_AS_I
  ):
    # Rounded to the nearest of 256 levels.
    values = (np.asarray(image).astype(np.int32) + 128) // 257
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")
  if image.mode in ("I", "F"):
    return Image.fromarray(_grey_levels(image)).convert("RGB")
  # Colours that stand for transparency are colours here.
  image.info.pop("transparency", None)
  return image.convert("RGB")


def _grey_levels(image: Image.Image) -> np.ndarray:
  values = np.asarray(image)
  low, high = values.min(), values.max()
  # Fractions below 1 are black as grey levels; nobody means that.
  fractions = image.mode == "F" and 0 < high <= 1
  if not 0 <= low <= high <= 255 or fractions:
    raise Undecodable(
      f"its grey values of 32 bits reach from {low:g} to {high:g}; grey levels "
      "of 0 to 255 were expected, as such a file does not say what is white. "
      "Save it with 8 or 16 bits"
    )
  return np.rint(values).astype(np.uint8)


def _limit() -> float:
  """The most pixels that Pillow opens, after the user's limit is set."""
  if asked := os.environ.get(MOST_PIXELS):
    if not asked.isdecimal() or not int(asked):
      raise Undecodable(
        f"{MOST_PIXELS}={asked!r} must be a number of pixels above 0; mend or "
        "unset it"
      )
    # Pillow warns above its limit, and refuses above twice of it.
    Image.MAX_IMAGE_PIXELS = -(-int(asked) // 2)
  most = Image.MAX_IMAGE_PIXELS
  return np.inf if most is None else 2 * most


def _plain_jpeg(encoded: bytes, exif: bool) -> bool:
  frame, orientations = b"", b""
  for marker, content in _segments(encoded):
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
    and 0 < height * width <= _limit()
    and (not orientations or _orientation(orientations) == 1)
  )


def _segments(encoded: bytes) -> list[tuple[int, bytes]]:
  """Markers of a JPEG before its pixels, each with its content."""
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
      return found
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
    and 0 < height * width <= _limit()
    and not _PNG_EXTRAS.search(encoded)
  )
