"""Trains a group of peers.

python main.py --config=configs/okddip_c100.py [--workdir=DIR] [--data=DIR]
               [--config.key=value ...]

Recipes are in configs/; docs/settings.md lists the keys that they have. Without
--workdir a run is in a folder under runs/. python -m okd_jax --help lists the
commands around training.
"""

import time

BEGAN = time.monotonic()  # before the imports, for the time to the first step

import sys

from okd_jax.cli import missing
from okd_jax.devices import early

if __name__ == "__main__":
  early.watch()

with missing.explained():
  from okd_jax import seeds
  from okd_jax.cli import common
  from okd_jax.devices import distributed
  from okd_jax.runs import summary


def main() -> None:
  """Parses the flags, trains, and shows the result."""
  if {"-h", "--help"} & {*sys.argv}:
    print(__doc__)
    return
  with missing.explained(), common.exit_codes():
    config, workdir = common.read_recipe(sys.argv)
    common.prepare_jax(config)
    distributed.initialize()
    results = seeds.train(config, workdir, BEGAN)
    summary.show_results(config, results)
    print(f"Results are in {workdir}.")


if __name__ == "__main__":
  main()
