"""Explains in one message what is wrong with the flags of a command."""

import re

from okd_jax.errors import ConfigError

# What absl says of a value that is not of the type of its flag.
_WRONG_TYPE = re.compile(
  r"flag --(config\.[\w.]+)=(.*): "
  r".*(for int\(\)|string to float|boolean flag)",
  re.DOTALL,
)
_TYPES = {
  "for int()": "a whole number",
  "string to float": "a number",
  "boolean flag": "True or False",
}


def explain(error: Exception) -> ConfigError:
  """Explains in one message what is wrong with the flags of a command.

  Args:
    error: the error that was raised while the flags were read.

  Returns:
    The error to raise instead: what was wrong, and what is expected.
  """
  text = str(error)
  if "no attribute 'get_config'" in text:
    return ConfigError(
      "--config names a file without a function get_config, which makes the "
      "configuration; recipes are in configs/."
    )
  if "is defined twice" in text:
    return ConfigError("--config is given twice; name one recipe.")
  if isinstance(error, AttributeError | KeyError):
    return ConfigError(
      f"the recipe could not be read: {type(error).__name__}: {text}; see "
      "docs/settings.md for the keys."
    )
  if isinstance(error, OSError):
    reason = text.strip().splitlines()[-1].strip()
    return ConfigError(
      f"--config names no readable recipe: {reason}. Recipes are in configs/."
    )
  if found := _WRONG_TYPE.match(text):
    path, value, reason = found.groups()
    expected = next(v for k, v in _TYPES.items() if k in reason)
    return ConfigError(f"{path}={value!r} must be {expected}.")
  if "parsing config file" in text:
    lines = [line for line in text.splitlines() if line.strip()]
    return ConfigError(f"the recipe could not be read: {lines[-1]}")
  return ConfigError(f"{text.rstrip('.')}; see docs/settings.md for the keys.")
