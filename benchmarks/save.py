"""Times checkpoints: what a save costs in a folder, and what in a bucket.

python -m benchmarks.save --workdir=DIR [--megabytes=55] [--saves=5]

DIR may be gs://BUCKET/PATH. By default the state is as large as that of four
ResNet-110 with their momentum.
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp

from okd_jax.cli import common, places
from okd_jax.storage.checkpoint import Checkpoints

# About as many arrays as those networks have.
_ARRAYS = 400


def measure(workdir, megabytes, saves):
  """Seconds in which training waits, until verified, and to restore."""
  size = int(megabytes * 1e6 / 4 / _ARRAYS)
  state = {f"a{i}": jnp.full(size, i, jnp.float32) for i in range(_ARRAYS)}
  checkpoints = Checkpoints(workdir)
  waits, wholes = [], []
  first = (checkpoints.latest_verified() or 0) + 1
  for step in range(first, first + saves):
    state = jax.block_until_ready(jax.tree.map(lambda x: x + 1, state))
    began = time.monotonic()
    checkpoints.save(step, state)
    waits.append(time.monotonic() - began)
    checkpoints.finish()
    wholes.append(time.monotonic() - began)
  began = time.monotonic()
  checkpoints.restore(state)
  return {
    "megabytes": megabytes,
    "training_waits": statistics.median(waits),
    "until_verified": statistics.median(wholes),
    "restore": time.monotonic() - began,
  }


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--workdir", type=places.place, required=True)
  parser.add_argument("--megabytes", type=float, default=55.0)
  parser.add_argument("--saves", type=int, default=5)
  args = parser.parse_args()
  with common.exit_codes():
    found = measure(args.workdir, args.megabytes, args.saves)
  print(json.dumps(found, indent=2))


if __name__ == "__main__":
  main()
