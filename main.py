"""Trains a group of peers.

python main.py --config=configs/okddip_c100.py [--workdir=DIR]
               [--config.key=value ...]
"""

import time

BEGAN = time.monotonic()  # before the imports, for the time to the first step

import sys

from okd_jax import seeds
from okd_jax.cli import common as cli
from okd_jax.devices import distributed
from okd_jax.runs import summary


def main() -> None:
  """Parses the flags, trains, and shows the result."""
  with cli.exit_codes():
    config, workdir = cli.read_recipe(sys.argv)
    cli.prepare_jax(config)
    distributed.initialize()
    results = seeds.train(config, workdir, BEGAN)
    summary.show_results(results)
    print(f"Results are in {workdir}.")


if __name__ == "__main__":
  main()
