"""Reads several values for keys from a command line: --grid.KEY=(1,3)."""

import ast
from collections.abc import Sequence
import re
from typing import Any

from okd_jax import methods
from okd_jax.errors import closest, ConfigError
from okd_jax.settings import freeze
from okd_jax.settings.schema import RunConfig

Values = tuple[Any, ...]


def take(argv: Sequence[str], flag: str) -> tuple[list[str], dict[str, str]]:
  """Takes the flags --FLAG.KEY=TEXT out of a command line.

  Args:
    argv: the arguments.
    flag: the name of the flags, such as "grid".

  Returns:
    The other arguments, and the text for every key.

  Raises:
    ConfigError: if a key has no value, or is given twice.
  """
  rest, found = [], {}
  for word in argv:
    if not re.match(rf"--?{flag}\.", word):
      rest.append(word)
      continue
    key, equals, text = word.partition(".")[2].partition("=")
    if not equals or key in found:
      raise ConfigError(
        f"'{word}' must be --{flag}.KEY=VALUES, once for every key."
      )
    found[key] = text
  return rest, found


def is_list(text: str) -> bool:
  """Whether a text is to be read by `values`, and not by `bounds`."""
  return text.startswith(("(", "[")) or ".." not in text


def values(flag: str, text: str, default: Any) -> Values:
  """Reads a list of values.

  Args:
    flag: the flag that gave it, for messages.
    text: the list, such as "(1,3,5)".
    default: default of the key; if it is a float, whole numbers become floats.

  Raises:
    ConfigError: if it is not a list, is empty, or has a value twice.
  """
  try:
    found = ast.literal_eval(text)
  except (ValueError, TypeError, SyntaxError):
    found = ()
  if not isinstance(found, list | tuple) or not found:
    raise ConfigError(
      f'{flag}={text} must be values in brackets, such as "(1,3,5)" or '
      "\"('sgd','adamw')\", at least one."
    )
  made = tuple(_like(default, value) for value in found)
  if any(value in made[:i] for i, value in enumerate(made)):
    raise ConfigError(f"{flag}={text} must not hold a value twice.")
  return made


def bounds(flag: str, text: str, default: Any) -> tuple[Any, Any, bool]:
  """Reads a range.

  Args:
    flag: the flag that gave it, for messages.
    text: LOW..HIGH, both included, or log:LOW..HIGH, uniform in the logarithm.
    default: default of the key, a number; if it is a whole number, so are the
      values.

  Returns:
    The lowest value, the highest one, and whether it is uniform in the
    logarithm.

  Raises:
    ConfigError: if it is not a range, or the key does not hold a number.
  """
  log = text.startswith("log:")
  low, _, high = text.removeprefix("log:").partition("..")
  kind = type(default)
  try:
    if kind not in (int, float):
      raise ValueError
    found = kind(low), kind(high)
    if not (found[0] < found[1] and (not log or found[0] > 0)):
      raise ValueError
  except ValueError:
    raise ConfigError(
      f"{flag}={text} must be LOW..HIGH or log:LOW..HIGH, a smaller and a "
      "larger number (whole where the key is), and the key one of numbers; for "
      'others name values: "(VALUE,VALUE)".'
    ) from None
  return *found, log


def default_of(
  flag: str, key: str, config: RunConfig, names: Sequence[str]
) -> Any:
  """The value that a key has without the flag.

  Args:
    flag: the flag, for messages.
    key: path of the key, such as "optim.learning_rate" or "method.temperature".
    config: configuration of the run.
    names: names of the methods, of which one must have the key if it is a
      hyperparameter.

  Raises:
    ConfigError: if there is no such key, or no method has it.
  """
  section, _, option = key.partition(".")
  if section == "method":
    for name in names:
      if option in methods.options(name):
        return methods.options(name)[option]
    if names:
      raise ConfigError(
        f"{flag}: method '{names[0]}' has no hyperparameter '{option}'"
        f"{closest(option, methods.options(names[0]))} Take another key, or "
        "compare methods that have it (--config.methods)."
      )
    return None
  flat = freeze.flatten(config)
  if key not in flat:
    raise ConfigError(
      f"{flag}: there is no key '{key}'{closest(key, flat)} See "
      "docs/settings.md."
    )
  return flat[key]


def _like(default: Any, value: Any) -> Any:
  if isinstance(value, list):
    value = tuple(value)
  whole = isinstance(value, int) and not isinstance(value, bool)
  return float(value) if whole and isinstance(default, float) else value
