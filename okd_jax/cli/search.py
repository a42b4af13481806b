"""Search for good values of settings on validation data, with Optuna."""

import argparse
import shlex

from okd_jax.cli import common
from okd_jax.errors import ConfigError
from okd_jax.runs import display
from okd_jax.settings import ranges


def add_arguments(command: argparse.ArgumentParser) -> None:
  """Adds the arguments of the command."""
  command.set_defaults(takes_settings=True)
  command.add_argument(
    "--trials", type=int, default=20, help="number of runs, 20 by default"
  )
  command.usage = (
    "python -m okd_jax search --config=configs/RECIPE.py [--workdir=DIR] "
    "[--trials=N] [--config.key=value ...] --search.key=log:LOW..HIGH "
    '--search.key="(VALUE,VALUE)" ...'
  )


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  with common.needing("optuna"):
    from okd_jax import search, search_space
  rest, texts = ranges.take(args.settings, "search")
  config, workdir = common.read_recipe(["search", *rest], "search")
  looked = search_space.space(config, texts)
  common.prepare_jax(config)
  judge, trials = search.search(config, looked, args.trials, workdir)
  # Optuna gives a pruned trial a value, too: that of the step where it ended.
  done = sorted(
    (t for t in trials if t.state == search.TrialState.COMPLETE),
    key=lambda t: -t.values[0],
  )
  rest_of_them = [t for t in trials if t not in done]
  measure = judge.measure
  display.table(
    f"Trials by {judge.name} ({config.deploy} evaluation)",
    ["trial", measure.words, "state", *looked],
    [
      (
        trial.number,
        measure.text(judge.figure(trial.values[0])) if trial.values else "",
        trial.state.name.lower(),
        *(f"{search_space.settings(trial).get(key, '')}" for key in looked),
      )
      for trial in [*done, *rest_of_them]
    ],
  )
  if not done:
    raise ConfigError(
      f"none of the {len(trials)} trials was trained to its end; the messages "
      "above say why. Search other values in another --workdir."
    )
  flags = [
    f"--config.{key}={v}" for key, v in search_space.settings(done[0]).items()
  ]
  print(f"The best one is in {workdir / f'trial{done[0].number}'}:")
  print(shlex.join(flags))
