"""The one decoder: what a picture's file means, everywhere.

A file becomes the RGB that Pillow makes of it, to one grey level, in memory, in
a stream, in evaluation, in `predict` and in `data`; or it is refused. The rules
where Pillow leaves a choice:

- Orientation: pictures are turned as people see them, as EXIF (or XMP) says.
- Transparency is left out: colours are those in the file, whatever covers them.
- Grey of 12 and 16 bits is scaled: 4095 or 65535 is white, or black in a TIFF
  that says so.
- Grey of 32 bits, whole or floating, does not say what is white. Grey levels of
  0 to 255 are taken, other values refused.
- Of several frames the first one is taken.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
import io
import os
from typing import Any, TypeVar

import numpy as np
from PIL import (
  ExifTags,
  Image,
  ImageOps,
  TiffImagePlugin as tiff,
  UnidentifiedImageError,
)

from okd_jax.data import png
from okd_jax.devices import host

T = TypeVar("T")
R = TypeVar("R")

# Pictures that are read together, which is faster in a bucket, and how many
# times that are decoded before they are asked for.
TOGETHER, _AHEAD = 16, 4
# Shorter side of a test image to the side of the crop: 256 to 224.
MARGIN = 256 / 224
# Longer side to the shorter one. Of a longer picture the middle is resized,
# which has all of its centre; the whole could take gigabytes.
LONGEST = 8
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

# What takes back each orientation.
_BACK = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_90,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_270,
}


def in_parts(
  function: Callable[[Sequence[T]], R], items: Sequence[T]
) -> Iterator[R]:
  """Calls a function, in threads, for parts of what names pictures.

  Args:
    function: function that reads the pictures of a part.
    items: one for each picture.

  Yields:
    The results, in the order of the parts.
  """
  parts = (items[at : at + TOGETHER] for at in range(0, len(items), TOGETHER))
  return host.in_threads(function, parts, _AHEAD)


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
  left, top = (max(0, length - LONGEST * side) // 2 for length in image.size)
  if left or top:
    image = image.crop((left, top, image.width - left, image.height - top))
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


def most_pixels() -> float:
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


def _rgb(encoded: bytes, exif: bool) -> Image.Image:
  try:
    most_pixels()
    with Image.open(io.BytesIO(encoded), formats=formats()) as image:
      back = None if exif else _back(image)
      image.load()
      if image.format == "PNG":
        png.require_all_pixels(encoded)
      if exif:
        _turn_upright(image)
      rgb = _as_rgb(image)
      return rgb if back is None else rgb.transpose(back)
  except Undecodable:
    raise
  except UnidentifiedImageError as error:
    why = "it is no picture that can be read" if encoded else "it is empty"
    raise Undecodable(why) from error
  except Image.DecompressionBombError as error:
    raise Undecodable(
      f"it has more pixels than {most_pixels():,}, the limit of Pillow against "
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


def _back(image: Image.Image) -> Image.Transpose | None:
  """What takes back how Pillow turns a picture that it loads, if it does.

  The orientation is not known any more after it is loaded.
  """
  if not isinstance(image, tiff.TiffImageFile):
    return None
  return _BACK.get(image.getexif().get(ExifTags.Base.Orientation, 1))


def _as_rgb(image: Image.Image) -> Image.Image:
  if image.mode.startswith("I;16") or (
    image.mode == "I" and image.format in _SHORT_AS_I
  ):
    values = _scaled(image)
  elif image.mode in ("I", "F"):
    values = _grey_levels(image)
  else:
    # Colours that stand for transparency are colours here.
    image.info.pop("transparency", None)
    return image.convert("RGB")
  # Pillow inverts those of 8 bits alone.
  if _tag(image, tiff.PHOTOMETRIC_INTERPRETATION, 1) == 0:
    values = 255 - values
  return Image.fromarray(values).convert("RGB")


def _scaled(image: Image.Image) -> np.ndarray:
  """Grey of 12 or 16 bits, rounded to the nearest of 256 levels."""
  bits, *_ = _tag(image, tiff.BITSPERSAMPLE, (16,))
  white = 2**bits - 1
  values = np.asarray(image).astype(np.int32)
  return ((255 * values + white // 2) // white).astype(np.uint8)


def _tag(image: Image.Image, number: int, default: Any) -> Any:
  """What a TIFF says of itself; the default for other pictures."""
  if not isinstance(image, tiff.TiffImageFile):
    return default
  return image.tag_v2.get(number, default)


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
