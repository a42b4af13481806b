"""Times the start over a folder of many pictures, and how fast they are read.

    python -m benchmarks.listing --pictures=200000 [--place=DIR]

The pictures are the same 1 x 1 pixel in 100 classes; what reading takes is then
the cost of a file or request, not of its bytes. DIR has to be empty and
may be gs://BUCKET/PATH; a folder that is removed again by default.
"""

import argparse
import io
import json
import pathlib
import statistics
import tempfile
import time

import numpy as np
from PIL import Image

from okd_jax.cli import common, places
from okd_jax.data.formats import folder, index, listing, walk
from okd_jax.devices import host
from okd_jax.storage import files

_CLASSES = 100
_ROUNDS = 3
_READ = 3200
# File systems bound the number of names of one file.
_LINKS = 10_000


def fill(place, count):
  """Writes the pictures; names of one file on a disk."""
  content = io.BytesIO()
  Image.new("RGB", (1, 1)).save(content, "BMP")
  names = [f"class{i % _CLASSES:02d}/picture{i:07d}.bmp" for i in range(count)]
  for name in names[:_CLASSES]:
    files.make_folder((place / name).parent)

  def write(i):
    path, first = place / names[i], place / names[i - i % _LINKS]
    if isinstance(path, pathlib.Path) and path != first:
      path.hardlink_to(first)
    else:
      path.write_bytes(content.getvalue())

  firsts, rest = range(0, count, _LINKS), set(range(count))
  for chosen in (firsts, sorted(rest.difference(firsts))):
    for _ in host.in_threads(write, chosen, 64):
      pass


def measure(place, count):
  """Seconds until the list is there, and what the index costs."""
  fill(place, count)
  without = _seconds(place)
  began = time.monotonic()
  folder.check_folder(str(place), write_index=True)
  written = time.monotonic() - began
  return {
    "pictures": count,
    "without_index": without,
    "with_index": _seconds(place),
    "to_write_it": written,
    "megabytes": len(files.content(place / walk.INDEX)) / 1e6,
    "read_a_second": _reads(place),
  }


def _reads(place):
  """Pictures a second, sixteen at a time in each thread as a stream does."""
  pictures = listing.from_folder(str(place), 224, 0.2).train
  rows = np.random.default_rng(0).permutation(len(pictures.labels))[:_READ]
  parts = np.array_split(rows, len(rows) // 16)
  began = time.monotonic()
  for found in host.in_threads(pictures.read_together, parts, 8):
    assert all(isinstance(content, bytes) for content in found)
  return len(rows) / (time.monotonic() - began)


def _seconds(place):
  taken = []
  for _ in range(_ROUNDS):
    began = time.monotonic()
    listing.from_folder(str(place), 224, 0.2)
    taken.append(time.monotonic() - began)
  return statistics.median(taken)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--pictures", type=int, default=200_000)
  parser.add_argument("--place", type=places.place)
  args = parser.parse_args()
  with common.exit_codes(), tempfile.TemporaryDirectory() as made:
    place = args.place or pathlib.Path(made)
    index.remove(place)
    print(json.dumps(measure(place, args.pictures), indent=2))


if __name__ == "__main__":
  main()
