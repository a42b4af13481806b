"""Methods, one file each: `okd_jax/methods/<name>.py` with a class `Method`.

`make` imports the module of that name, so there is no table to maintain. A
method of your own can be in any module; name it `module:Class`.
"""

import dataclasses
import importlib
import pkgutil
from typing import Any

from okd_jax import core, outside, rules
from okd_jax.core import Method
from okd_jax.errors import closest, ConfigError

__all__ = ["fields", "load", "make", "names", "options"]


def names() -> list[str]:
  """Names of the methods of this package, from the files present."""
  return sorted(
    module.name
    for module in pkgutil.iter_modules(__path__)
    if not module.name.startswith("_")
  )


def load(name: str) -> type[Method]:
  """Returns the class of a method.

  Args:
    name: one of `names()`, or `module:Class` for a method from outside.

  Raises:
    ConfigError: if there is no such method; it lists the known ones.
  """
  if isinstance(name, str) and ":" in name:
    return _from_outside(name)
  if name not in names():
    raise ConfigError(
      f"config.method.name={name!r} is not a method{closest(name, names())} "
      f"There are: {', '.join(names())}; module:Class names one of your own."
    )
  return importlib.import_module(f"{__name__}.{name}").Method


def _from_outside(name: str) -> type[Method]:
  found = outside.find("config.method.name", name, "class")
  if not (isinstance(found, type) and issubclass(found, Method)):
    raise ConfigError(
      f"config.method.name={name!r} is no method; name a subclass of "
      "okd_jax.core.Method."
    )
  return found


def fields(name: str) -> list[dataclasses.Field[Any]]:
  """Returns the hyperparameters of a method: defaults and rules.

  Raises:
    ConfigError: if there is no such method, or if it has a hyperparameter
      that cannot stand in a recipe.
  """
  found = core.hyperparameters(load(name))
  for field in found:
    if type(field.default) not in rules.KINDS:
      raise ConfigError(
        f"config.method.name={name!r}: its field '{field.name}' must have a "
        "default that is a number, a text, True or False, or a tuple of them, "
        "as a recipe holds only these."
      )
  return found


def options(name: str) -> dict[str, Any]:
  """Returns the hyperparameters of a method with their defaults."""
  return {field.name: field.default for field in fields(name)}


def make(name: str, **hyperparameters: Any) -> Method:
  """Builds a method.

  Args:
    name: as for `load`.
    **hyperparameters: fields of the method that differ from their defaults.

  Raises:
    ConfigError: if the name or a hyperparameter is unknown, or if a value
      breaks the rule of its field.
  """
  method = load(name)
  require_known(name, hyperparameters)
  made = method(**hyperparameters)
  core.check_hyperparameters(made)
  return made


def require_known(name: str, hyperparameters: dict[str, Any]) -> None:
  """Raises ConfigError if a method lacks one of these hyperparameters."""
  known = options(name)
  for option in hyperparameters:
    if option not in known:
      raise ConfigError(
        f"method '{name}' has no hyperparameter '{option}'"
        f"{closest(option, known)} It has: {', '.join(known) or 'none'}. A "
        "method's settings are its own, so another method is chosen by its "
        "recipe."
      )
