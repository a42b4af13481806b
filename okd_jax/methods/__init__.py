"""Methods, one file each: `okd_jax/methods/<name>.py` with a class `Method`.

`make` imports the module of that name; there is no table to keep.
"""

import dataclasses
import difflib
import importlib
import pkgutil
from typing import Any

from okd_jax.core import Method

__all__ = ["load", "make", "names", "options"]


def names() -> list[str]:
  """Names of the methods, from the files present."""
  return sorted(
    module.name
    for module in pkgutil.iter_modules(__path__)
    if not module.name.startswith("_")
  )


def load(name: str) -> type[Method]:
  """Returns the class of a method.

  Raises:
    ValueError: if there is no such method, listing those there are.
  """
  if name not in names():
    close = difflib.get_close_matches(name, names(), 1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    raise ValueError(
      f"config.method.name='{name}' is not a method.{hint} There are: "
      f"{', '.join(names())}."
    )
  return importlib.import_module(f"{__name__}.{name}").Method


def options(name: str) -> dict[str, Any]:
  """Returns the hyperparameters of a method with their defaults."""
  return {
    field.name: field.default
    for field in dataclasses.fields(load(name))
    if field.name not in ("parent", "name")
  }


def make(name: str, **hyperparameters: Any) -> Method:
  """Builds a method.

  Args:
    name: one of `names()`.
    **hyperparameters: fields of the method that differ from their defaults.

  Raises:
    ValueError: if the name or a hyperparameter is unknown.
  """
  method = load(name)
  known = options(name)
  for option in hyperparameters:
    if option not in known:
      close = difflib.get_close_matches(option, known, 1)
      hint = f" Did you mean '{close[0]}'?" if close else ""
      raise ValueError(
        f"method '{name}' has no hyperparameter '{option}'.{hint} It has: "
        f"{', '.join(known) or 'none'}. A method's settings are its own, so "
        "another method is chosen by its recipe."
      )
  return method(**hyperparameters)
