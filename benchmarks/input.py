"""Images a second of each data pipeline alone, up to batches on the device.

    python -m benchmarks.input --names=digits --sources=memory,tfds

Augmentation is part of the training step, but is timed here too. Sets that
cannot be had are listed with the reason.
"""

import argparse
import os
import statistics
import time

import jax

from okd_jax import data
from okd_jax.data import augment, DataError


def measure(
  name: str, source: str, batch_size: int, seconds: float, rounds: int
) -> list[tuple[str, float, float, float]]:
  """Returns (what, median, least, most), in images a second."""
  made = data.make(
    {"name": name, "source": source, "download": False},
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
        results = measure(name, source, args.batch, args.seconds, args.rounds)
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
