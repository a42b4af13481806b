"""Images a second of each data pipeline alone, up to batches on the device.

    python -m benchmarks.input --names=digits --sources=memory,tfds
    python -m benchmarks.input --names=photographs --sources=stream

Augmentation is part of the training step, but is timed here too. Sets that
cannot be had are listed with the reason. "photographs" are made here: JPEG
files of the size that ImageNet's have on average, read, decoded and cropped to
224 x 224 as they go.
"""

import argparse
import os
from pathlib import Path
import statistics
import tempfile
import time

import jax
import numpy as np

from okd_jax import data
from okd_jax.data import augment
from okd_jax.errors import DataError

PHOTOGRAPHS = "photographs"


def photographs(folder: Path, count: int = 256) -> None:
  """Writes JPEG files of 500 x 375 pixels and about 110 kB, in two classes."""
  from PIL import Image

  rng = np.random.default_rng(0)
  for i in range(count):
    # Detail at several scales; of noise alone a file would be far larger.
    image = np.zeros((375, 500, 3))
    for scale, weight in ((64, 60), (16, 40), (4, 25), (1, 80)):
      size = (500 // scale + 2, 375 // scale + 2)
      noise = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
      layer = Image.fromarray(noise).resize(
        (500, 375), Image.Resampling.BICUBIC
      )
      image += weight / 205 * np.asarray(layer)
    path = folder / "train" / f"class{i % 2}" / f"{i}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.astype(np.uint8)).save(path, quality=90)


def measure(
  name: str, source: str, batch_size: int, seconds: float, rounds: int
) -> list[tuple[str, float, float, float]]:
  """Returns (what, median, least, most), in images a second."""
  about = {"name": name, "source": source, "download": False}
  if source == "stream":
    about["image_size"] = 224
  made = data.make(
    about,
    batch_size=batch_size,
    eval_batch_size=batch_size,
    seed=0,
  )
  key = jax.random.key(0)
  results = []
  for what in ("batches", "batches, augmented"):
    batches = made.batches(0)

    def step(batches=batches, what=what):
      batch = next(batches)
      if what == "batches":
        return batch.image
      return augment(batch.image, key, info=made.info)

    jax.block_until_ready([step() for _ in range(3)])  # compiles
    rates = []
    for _ in range(rounds):
      began, count = time.monotonic(), 0
      while time.monotonic() - began < seconds:
        jax.block_until_ready(step())
        count += 1
      rates.append(count * batch_size / (time.monotonic() - began))
    results.append((what, statistics.median(rates), min(rates), max(rates)))
  return results


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m benchmarks.input")
  parser.add_argument("--names", default="digits,fashion_mnist")
  parser.add_argument("--sources", default="memory,tfds")
  parser.add_argument("--batch", type=int, default=128)
  parser.add_argument("--seconds", type=float, default=1.0)
  parser.add_argument("--rounds", type=int, default=5)
  args = parser.parse_args()
  print(f"load {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores")
  print(f"{'data':16} {'source':8} {'what':20} {'images/s':>10}")
  for name in args.names.split(","):
    for source in args.sources.split(","):
      try:
        with tempfile.TemporaryDirectory() as made:
          where = name
          if name == PHOTOGRAPHS:
            photographs(Path(made))
            where = f"folder:{made}"
          results = measure(
            where, source, args.batch, args.seconds, args.rounds
          )
      except (ValueError, DataError, ImportError) as error:
        print(f"{name:16} {source:8} not measured: {error}")
        continue
      for what, median, least, most in results:
        print(
          f"{name:16} {source:8} {what:20} {median:10.0f} "
          f"({least:.0f} to {most:.0f})"
        )


if __name__ == "__main__":
  main()
