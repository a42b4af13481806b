"""The values that a search tries, and those of a trial."""

import ast
from collections.abc import Mapping
from typing import Any

from optuna import distributions
from optuna.trial import FrozenTrial, Trial

from okd_jax.errors import ConfigError
from okd_jax.settings import config as config_lib, freeze, ranges
from okd_jax.settings.schema import RunConfig

# Trials that differ in them cannot be compared.
_COMMON = {"seed", "num_seeds", "best_by", "deploy"}
_COMMON |= {"data.name", "data.validation", "data.test_fraction"}

Space = dict[str, distributions.BaseDistribution]


def space(config: RunConfig, texts: Mapping[str, str]) -> Space:
  """The values to search, from the texts of a command line.

  Args:
    config: configuration of the run.
    texts: for every key a text for `ranges.bounds` or `ranges.values`.

  Raises:
    ConfigError: for an unknown key or wrong values, or if there is no key.
  """
  if not texts:
    raise ConfigError(
      "nothing to search: name a key with --search.KEY=LOW..HIGH, "
      '--search.KEY=log:LOW..HIGH or --search.KEY="(VALUE,VALUE)".'
    )
  found: Space = {}
  for key, text in texts.items():
    flag = f"--search.{key}"
    if key in _COMMON:
      raise ConfigError(f"{flag}: all trials must have the same; leave it out.")
    default = ranges.default_of(flag, key, config, [config.method.name])
    if ranges.is_list(text):
      chosen = ranges.values(flag, text, default)
      found[key] = distributions.CategoricalDistribution(
        [_written(value) for value in chosen]
      )
      tried: tuple[Any, ...] = chosen
    else:
      low, high, log = ranges.bounds(flag, text, default)
      kind = (
        distributions.IntDistribution
        if isinstance(low, int)
        else distributions.FloatDistribution
      )
      found[key] = kind(low, high, log=log)
      tried = low, high
    for value in tried:
      config_lib.check(freeze.replace(config, {key: value}))
  return found


def settings(trial: Trial | FrozenTrial) -> dict[str, Any]:
  """The values of a trial by key."""
  return {key: _read(value) for key, value in trial.params.items()}


def _written(value: Any) -> Any:
  """What stands for a value in a study, which keeps no tuples."""
  return repr(value) if isinstance(value, tuple) else value


def _read(value: Any) -> Any:
  """The inverse of `_written`."""
  try:
    found = ast.literal_eval(value) if isinstance(value, str) else value
  except (ValueError, SyntaxError):
    return value
  return found if isinstance(found, tuple) else value
