"""Commands around training: python -m okd_jax COMMAND --help.

Training itself is started by main.py.
"""

import argparse
from collections.abc import Sequence
import importlib
import sys

from okd_jax.cli import missing
from okd_jax.devices import early

# Each is a module of `okd_jax.cli`: the first line of its docstring is its
# description, `add_arguments` adds its flags to a parser, `run` runs it.
COMMANDS = (
  "eval",
  "export",
  "predict",
  "plot",
  "compare",
  "search",
  "report",
  "data",
  "nets",
  "new-method",
  "doctor",
)


def main(argv: Sequence[str] | None = None) -> None:
  """Reads the command line and runs one command."""
  parser = argparse.ArgumentParser(
    prog="python -m okd_jax", description=__doc__.splitlines()[0]
  )
  commands = parser.add_subparsers(metavar="COMMAND", required=True)
  argv = sys.argv[1:] if argv is None else argv
  # A command need not wait for what others import.
  named = [name for name in COMMANDS if [name] == list(argv[:1])]
  with missing.explained():
    from okd_jax.cli import common

    for name in named or COMMANDS:
      module = importlib.import_module(f"okd_jax.cli.{name.replace('-', '_')}")
      text = (module.__doc__ or "").splitlines()[0]
      command = commands.add_parser(name, help=text, description=text)
      command.set_defaults(run=module.run, takes_settings=False)
      module.add_arguments(command)
  args, rest = parser.parse_known_args(argv)
  if rest and not args.takes_settings:
    parser.error(f"unrecognized arguments: {' '.join(rest)}")
  args.settings = rest
  with missing.explained(), common.exit_codes():
    common.prepare_jax()
    args.run(args)


if __name__ == "__main__":
  early.watch()
  main()
