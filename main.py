"""Trains a group of peers.

python main.py --config=configs/okddip_c100.py [--workdir=DIR]
               [--config.key=value ...]
"""

import time

BEGAN = time.monotonic()  # before the imports, for the time to the first step

from pathlib import Path
import sys

from absl import flags
from ml_collections import config_flags

from okd_jax import cli, config as config_lib, summary, train

CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A recipe, such as configs/okddip_c100.py.", lock_config=True
)
WORKDIR = flags.DEFINE_string(
  "workdir", None, "Where results go; a folder under runs/ by default."
)


def parse(argv: list[str]) -> None:
  """Reads the flags; every mistake in them is a wrong configuration."""
  try:
    rest = flags.FLAGS(argv)
    missing = CONFIG.value is None
    if not missing:
      CONFIG.value.to_dict()  # raises if the recipe was not found
  except Exception as error:  # a recipe is Python and may raise anything
    raise config_lib.explain_flag_error(error) from error
  if rest[1:]:
    raise config_lib.ConfigError(
      f"unexpected argument '{rest[1]}'; settings are given as "
      "--config.key=value."
    )
  if missing:
    raise config_lib.ConfigError(
      "--config is missing; name a recipe, for example "
      "--config=configs/okddip_digits.py."
    )


def main() -> None:
  """Parses the flags, trains, and shows the result."""
  with cli.exit_codes():
    parse(sys.argv)
    config = CONFIG.value
    cli.prepare_jax(deterministic=config.deterministic)
    named = config_flags.get_config_filename(flags.FLAGS["config"])
    workdir = Path(WORKDIR.value or cli.default_workdir(config, named))
    result = train.train(config, workdir, BEGAN)[1]
    summary.show_result(result)
    print(f"Results are in {workdir}.")


if __name__ == "__main__":
  main()
