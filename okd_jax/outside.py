"""Things of the user's that a recipe names as "module:attribute"."""

from collections.abc import Iterable
import importlib
import inspect
from typing import Any

from okd_jax.errors import ConfigError

# Why a network is made with more arguments than the number of classes, and what
# makes it none of them.
_SETTINGS = {
  "split": "config.peers.split=0",
  "dropout": "config.peers.dropout=0",
  "dtype": "config.precision=float32",
}


def find(key: str, name: str, what: str) -> Any:
  """Imports what a key of the recipe names.

  Args:
    key: the key, for messages.
    name: the module and the attribute in it, with a colon between them.
    what: what is expected, for messages.

  Raises:
    ConfigError: if it cannot be imported.
  """
  module, _, attribute = name.partition(":")
  try:
    return getattr(importlib.import_module(module), attribute)
  except (ImportError, AttributeError, TypeError, ValueError) as error:
    raise ConfigError(
      f"{key}='{name}' must name an importable module and a {what} in it, as "
      f"module:{what.capitalize()} ({error}); check the spelling, and that the "
      "module is installed, in the working directory or in one of PYTHONPATH."
    ) from error


def takes(made: Any, name: str) -> bool:
  """Whether a class has an argument of that name."""
  # The signature of a class of flax nnx itself is that of its metaclass.
  arguments = inspect.signature(getattr(made, "__init__", made)).parameters
  return name in arguments or any(
    each.kind is each.VAR_KEYWORD for each in arguments.values()
  )


def or_unset(options: Iterable[str]) -> str:
  """A remedy for a network that does not take some arguments, if there is one.

  Args:
    options: names of the arguments.
  """
  settings = [_SETTINGS[name] for name in options if name in _SETTINGS]
  return f", or set {' and '.join(settings)}" if settings else ""
