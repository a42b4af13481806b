"""Tiny pictures of every mode and format that Pillow writes, and their RGB."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

# (width, height): not square, so that turning shows.
SIZE = (26, 20)
ORIENTATION = 0x0112


def colours(seed=0):
  """A smooth picture in RGB, without symmetry."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (4, 5, 3), np.uint8)
  return Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC)


def write(image, kind, **options):
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def turned(orientation):
  exif = Image.Exif()
  exif[ORIENTATION] = orientation
  return exif


def shorts():
  """Grey of 16 bits, most of it above 255."""
  ramp = np.linspace(0, 65535, SIZE[0] * SIZE[1])
  return ramp.reshape(SIZE[::-1]).astype(np.uint16)


def scaled(values):
  grey = np.round(values.astype(float) / 65535 * 255)
  return np.repeat(grey[..., None], 3, -1)


def chunk(name, content, damage=0):
  """A chunk of a PNG, whose checksum may be damaged."""
  sum = zlib.crc32(name + content) ^ damage
  return (
    struct.pack(">I", len(content)) + name + content + struct.pack(">I", sum)
  )


def png_header(size, bits, colour_type, interlaced=False):
  fields = struct.pack(">IIBBBBB", *size, bits, colour_type, 0, 0, interlaced)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", fields)


def png_rows(values, bits, *, interlaced=False):
  """What a PNG of `values`, uint8 [H, W, c], compresses."""
  passes = [(0, 0, 1, 1)]
  if interlaced:  # Adam7: first column and row, and their steps
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)]
    passes += [(0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
  lines = []
  for left, top, right, down in passes:
    part = values[top::down, left::right]
    for row in part if part.size else ():
      of_bits = np.unpackbits(row.reshape(-1, 1), axis=1)[:, 8 - bits :]
      lines.append(b"\0" + np.packbits(of_bits.ravel()).tobytes())
  return b"".join(lines)


def damaged():
  """PNG and JPEG files that libraries disagree on, by what is wrong."""
  rows = png_rows(np.asarray(colours()), 8)
  packed = zlib.compress(rows)
  start, end = png_header(SIZE, 8, 2), chunk(b"IEND", b"")
  data = chunk(b"IDAT", packed)

  def of(rows):
    return start + chunk(b"IDAT", zlib.compress(rows)) + end

  jpeg = write(colours(), "JPEG")
  return {
    "fine": of(rows),
    "parts": start
    + chunk(b"IDAT", packed[:9])
    + chunk(b"IDAT", packed[9:])
    + end,
    "more rows": of(rows + rows),
    "no end": start + data,
    "end without sum": (start + data + end)[:-1],
    "sum of the end": start + data + chunk(b"IEND", b"", 1),
    "sum of pixels": start + chunk(b"IDAT", packed, 1) + end,
    "sum of a text": start + chunk(b"tEXt", b"a\0b", 1) + data + end,
    "unknown": start + chunk(b"ABCD", b"") + data + end,
    "no checksum": start + chunk(b"IDAT", packed[:-4]) + end,
    "wrong checksum": start + chunk(b"IDAT", packed[:-4] + b"1234") + end,
    "few rows": of(rows[: -2 * (1 + 3 * SIZE[0])]),
    "few bytes": of(rows[:-2]),
    "jpeg": jpeg,
    "jpeg without end": jpeg[:-2],
    "half a jpeg": jpeg[: 2 * len(jpeg) // 3],
  }


def png_of_shorts(colour_type, channels):
  """PNG with 16 bits a channel, which Pillow does not write."""
  rng = np.random.default_rng(1)
  values = rng.integers(0, 65536, (SIZE[1], SIZE[0], channels)).astype(">u2")
  lines = b"".join(b"\0" + line.tobytes() for line in values)
  return (
    png_header(SIZE, 16, colour_type)
    + chunk(b"IDAT", zlib.compress(lines))
    + chunk(b"IEND", b"")
  )


def tiff(values, bits, *, white_is_zero):
  """TIFF of 12 or 16 bits, of kinds which Pillow does not write."""
  content = values.astype("<u2").tobytes()
  if bits == 12:
    first, second = values.reshape(-1, 2).astype(int).T
    parts = first >> 4, (first & 15) << 4 | second >> 8, second & 255
    content = np.stack(parts, 1).astype(np.uint8).tobytes()
  width, height = SIZE
  short, long = 3, 4
  entries = [
    (256, short, width),
    (257, short, height),
    (258, short, bits),
    (259, short, 1),  # not compressed
    (262, short, 0 if white_is_zero else 1),
    (273, long, 8),  # where the only strip begins
    (277, short, 1),
    (278, short, height),
    (279, long, len(content)),
  ]
  directory = b"".join(
    struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries
  )
  return (
    struct.pack("<2sHI", b"II", 42, 8 + len(content))
    + content
    + struct.pack("<H", len(entries))
    + directory
    + bytes(4)
  )


def _plain():
  """Content of files whose RGB is what Pillow converts them to."""
  rgb = colours()
  mask = Image.new("L", SIZE, 0)
  mask.paste(200, (3, 3, 15, 12))
  rgba = rgb.copy()
  rgba.putalpha(mask)
  grey_alpha = rgb.convert("L")
  grey_alpha.putalpha(mask)
  palette = rgb.quantize(32)
  of_mode = {
    "1": rgb.convert("1"),
    "L": rgb.convert("L"),
    "LA": grey_alpha,
    "P": palette,
    "RGB": rgb,
    "RGBA": rgba,
    "CMYK": rgb.convert("CMYK"),
    "YCbCr": rgb.convert("YCbCr"),
  }
  kinds = {
    "png": ("PNG", "1 L LA P RGB RGBA", {}),
    "jpg": ("JPEG", "L RGB CMYK YCbCr", {}),
    "webp": ("WEBP", "RGB RGBA", {"lossless": True}),
    "tiff": ("TIFF", "1 L LA P RGB RGBA CMYK YCbCr", {}),
    "tif": ("TIFF", "L RGB", {"compression": "tiff_lzw"}),
    "bmp": ("BMP", "1 L P RGB RGBA", {}),
    "gif": ("GIF", "L P RGB RGBA", {}),
    "ppm": ("PPM", "1 L RGB", {}),
    "avif": ("AVIF", "RGB RGBA", {}),
    "jp2": ("JPEG2000", "L LA RGB RGBA", {}),
  }
  for suffix, (kind, modes, options) in kinds.items():
    for mode in modes.split():
      yield f"{mode}.{suffix}", write(of_mode[mode], kind, **options)
  for sampling in (0, 1, 2):
    options = {"subsampling": sampling, "progressive": sampling == 1}
    yield f"sampled{sampling}.jpg", write(rgb, "JPEG", **options)
  yield "opaque.png", write(palette, "PNG", transparency=3)
  yield "alphas.png", write(palette, "PNG", transparency=bytes(range(32)))
  yield "key.png", write(rgb, "PNG", transparency=(1, 2, 3))
  yield "grey_key.png", write(of_mode["L"], "PNG", transparency=9)
  yield "shorts.png", png_of_shorts(2, 3)
  yield "shorts_alpha.png", png_of_shorts(6, 4)
  yield (
    "animation.gif",
    write(palette, "GIF", save_all=True, append_images=[colours(1)]),
  )
  yield (
    "animation.png",
    write(rgb, "PNG", save_all=True, append_images=[colours(1)]),
  )
  for orientation in range(1, 9):
    options = {"exif": turned(orientation)}
    yield f"turned{orientation}.jpg", write(rgb, "JPEG", **options)
  for suffix, kind in (("png", "PNG"), ("webp", "WEBP"), ("tif", "TIFF")):
    options = {"exif": turned(6)}
    yield f"turned6.{suffix}", write(rgb, kind, **options)
  xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
  yield "turned_by_xmp.jpg", write(rgb, "JPEG", xmp=xmp)


def every():
  """Name, content and RGB, float [H, W, 3], of every file."""
  for name, content in _plain():
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    # Pillow asks for RGBA first where a palette has transparency.
    via = "RGBA" if name == "alphas.png" else "RGB"
    rgb = image.convert(via).convert("RGB")
    yield name, content, np.asarray(rgb).astype(float)
  values = shorts()
  little = Image.fromarray(values)
  big = Image.frombytes("I;16B", SIZE, values.astype(">u2").tobytes())
  for suffix, kind in (
    ("png", "PNG"),
    ("tif", "TIFF"),
    ("pgm", "PPM"),
    ("jp2", "JPEG2000"),
  ):
    yield f"short.{suffix}", write(little, kind), scaled(values)
  yield "short_big.tif", write(big, "TIFF"), scaled(values)
  content = write(little, "PNG", exif=turned(6))
  yield "short_turned.png", content, scaled(np.rot90(values, -1))
  inverted = tiff(values, 16, white_is_zero=True)
  yield "short_inverted.tif", inverted, 255 - scaled(values)
  fewer = values // 16
  content = tiff(fewer, 12, white_is_zero=False)
  yield "twelve.tif", content, scaled(fewer * (65535 / 4095))
  levels = np.asarray(colours().convert("L"))
  expected = np.repeat(levels[..., None], 3, -1).astype(float)
  for mode in ("I", "F"):
    image = Image.fromarray(levels).convert(mode)
    yield f"long_{mode}.tif", write(image, "TIFF"), expected
