"""Images a second of each data pipeline alone, up to batches on the device.

    python -m benchmarks.input --names=digits --sources=memory,tfds
    python -m benchmarks.input --names=photographs --sources=stream
    python -m benchmarks.input --names=figures --sources=memory,stream

Augmentation is part of the training step, but is timed here too. Sets that
cannot be had are listed with the reason. "photographs" are made here: JPEG
files of the size that ImageNet's have on average, read, decoded and cropped to
224 x 224 as they go; "figures" are larger ones with a figure of 17 joints,
of which crops of 192 x 256 are made.
"""

import argparse
import json
import os
from pathlib import Path
import statistics
import tempfile
import time

import jax
import numpy as np

from okd_jax import data, tasks
from okd_jax.data.config import KEYPOINTS
from okd_jax.devices.mesh import make_mesh
from okd_jax.errors import DataError

PHOTOGRAPHS, FIGURES = "photographs", "figures"
_JOINTS = 17


def photographs(folder: Path, count: int = 256) -> None:
  """Writes JPEG files of 500 x 375 pixels and about 110 kB, in two classes."""
  for i in range(count):
    path = folder / "train" / f"class{i % 2}" / f"{i}.jpg"
    _write(path, i, (500, 375))


def figures(folder: Path, count: int = 256) -> None:
  """Writes JPEG files of the size that COCO's have, a figure in each."""
  rng = np.random.default_rng(0)
  images, annotations = [], []
  for i in range(1, count + 1):
    _write(folder / "images" / f"{i}.jpg", i, (640, 480))
    images.append(
      {"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480}
    )
    points = rng.uniform((200, 80), (360, 400), (_JOINTS, 2))
    table = np.column_stack([points, np.full(_JOINTS, 2)])
    about = {"id": i, "image_id": i, "category_id": 1}
    place = {"bbox": [200, 80, 160, 320], "keypoints": table.ravel().tolist()}
    annotations.append(about | place)
  names = [f"joint{i}" for i in range(_JOINTS)]
  content = {
    "images": images,
    "annotations": annotations,
    "categories": [{"id": 1, "name": "figure", "keypoints": names}],
  }
  (folder / "train.json").write_text(json.dumps(content))


def _write(path: Path, seed: int, size: tuple[int, int]) -> None:
  from PIL import Image

  rng = np.random.default_rng(seed)
  # Detail at several scales; of noise alone a file would be far larger.
  image = np.zeros((size[1], size[0], 3))
  for scale, weight in ((64, 60), (16, 40), (4, 25), (1, 80)):
    shape = (size[1] // scale + 2, size[0] // scale + 2, 3)
    noise = rng.integers(0, 256, shape, np.uint8)
    layer = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    image += weight / 205 * np.asarray(layer)
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(image.astype(np.uint8)).save(path, quality=90)


def measure(
  name: str, source: str, batch_size: int, seconds: float, rounds: int
) -> list[tuple[str, float, float, float]]:
  """Returns (what, median, least, most), in images a second."""
  about = {"name": name, "source": source, "download": False}
  if name.startswith(KEYPOINTS):
    about |= {"image_size": 256, "keypoints": {"width": 192}}
  elif source == "stream":
    about["image_size"] = 224
  mesh = make_mesh(1, 1)
  made = data.make(
    about,
    batch_size=batch_size,
    eval_batch_size=batch_size,
    seed=0,
    mesh=mesh,
  )
  task = tasks.load(made.info.task).of(made.info)
  key = jax.random.key(0)

  @jax.jit
  def augmented(batch):
    return task.augment(batch, key, num_views=None, mesh=mesh).image

  results = []
  for what in ("batches", "batches, augmented"):
    batches = made.batches(0)

    def step(batches=batches, what=what):
      batch = next(batches)
      return batch.image if what == "batches" else augmented(batch)

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
          elif name == FIGURES:
            figures(Path(made))
            where = f"{KEYPOINTS}{made}"
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
