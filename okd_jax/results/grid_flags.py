"""Reads the changes of a comparison's runs from a command line."""

from collections.abc import Iterable, Mapping
import dataclasses

from okd_jax.errors import ConfigError
from okd_jax.settings import ranges
from okd_jax.settings.schema import Comparison

# Keys that a comparison sets in every run, and what to change instead.
_SET = {
  "seed": "--config.seeds",
  "num_seeds": "--config.seeds",
  "peers.net": "--config.nets",
  "peers.kind": "--config.kinds.METHOD",
  "method.name": "--config.methods",
  "teacher": "--config.teacher_net",
  "teacher_net": "--config.teacher_net",
}


def refuse_set(keys: Iterable[str]) -> None:
  """Refuses changes of the base recipe that a comparison would overwrite.

  Args:
    keys: keys of `config.base` that a command line changes.

  Raises:
    ConfigError: if a comparison sets one of the keys in every run itself.
  """
  for key in keys:
    if key in _SET:
      raise ConfigError(
        f"--config.base.{key}: a comparison sets it in every run itself, so "
        f"this would change nothing; change {_SET[key]} instead."
      )


def ranged(config: Comparison, texts: Mapping[str, str]) -> Comparison:
  """A comparison with the grid of a command line, given by --grid.KEY.

  Args:
    config: comparison without a grid.
    texts: for every key, the text of its values.

  Raises:
    ConfigError: if a key is unknown, belongs to no method, or is set by the
      comparison itself, or if its values cannot be read.
  """
  grid = {}
  for key, text in texts.items():
    flag = f"--grid.{key}"
    if key in _SET:
      raise ConfigError(f"{flag}: change {_SET[key]} instead.")
    default = ranges.default_of(flag, key, config.base, config.methods)
    grid[key] = ranges.values(flag, text, default)
  return dataclasses.replace(config, grid=grid or None)
