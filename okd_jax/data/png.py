"""Whether all of a PNG is there, which decoders judge differently."""

from collections.abc import Iterator
from typing import NamedTuple
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Others may be left out if their names begin with a small letter.
_KNOWN = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Of each pass of an interlaced picture: first column and row, and their steps.
_WHOLE = ((0, 0, 1, 1),)
_INTERLACED = (
  *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
  *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


class _Chunk(NamedTuple):
  """A part of the file; what is behind its end is missing from it."""

  name: bytes
  content: memoryview
  sound: bool


def is_sound(encoded: bytes) -> bool:
  """Whether all chunks are known, have their checksums, and come to an end.

  Of other files some decoders say that they are damaged, and some do not.
  """
  name = b""
  for name, _, sound in _chunks(encoded):
    if not sound or (name not in _KNOWN and name[:1].isupper()):
      return False
  return name == b"IEND"


def require_all_pixels(encoded: bytes) -> None:
  """Raises `ValueError` if compressed pixels end too early.

  Pillow does not if what is compressed says itself that it ends.
  """
  unpacked, size, wanted = zlib.decompressobj(), 0, 0
  for name, content, _ in _chunks(encoded):
    if name == b"IHDR":
      wanted = _bytes_of_pixels(content)
    elif name == b"IDAT" and not unpacked.eof:
      # No more than one byte too many, of which there may be very many.
      size += len(unpacked.decompress(content, wanted - size + 1))
      if size > wanted:
        return
  if size < wanted:
    raise ValueError(f"its pixels end after {size:,} of {wanted:,} bytes")
  if not unpacked.eof:
    raise ValueError("the checksum of its pixels is missing")


def _chunks(encoded: bytes) -> Iterator[_Chunk]:
  view, at = memoryview(encoded), len(SIGNATURE)
  while at + 8 <= len(view):
    name = bytes(view[at + 4 : at + 8])
    end = at + 8 + int.from_bytes(view[at : at + 4], "big")
    sum = zlib.crc32(view[at + 4 : end]).to_bytes(4, "big")
    yield _Chunk(name, view[at + 8 : end], view[end : end + 4] == sum)
    if name == b"IEND":
      return
    at = end + 4


def _bytes_of_pixels(header: memoryview) -> int:
  """The size of all rows, each of which begins with a byte of its own."""
  width, height = (int.from_bytes(header[at : at + 4], "big") for at in (0, 4))
  bits = header[8] * _CHANNELS[header[9]]
  size = 0
  for left, top, right, down in _INTERLACED if header[12] else _WHOLE:
    columns, rows = -(-(width - left) // right), -(-(height - top) // down)
    if columns > 0:
      size += max(rows, 0) * (1 + -(-columns * bits // 8))
  return size
