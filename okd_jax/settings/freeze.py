"""Turns recipes and command lines into typed settings, and back.

`base` gives a recipe all settings as a ConfigDict; `freeze` reads the changed
one. No code outside this package uses a ConfigDict.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from ml_collections import ConfigDict

from okd_jax import methods, rules
from okd_jax.errors import closest, ConfigError
from okd_jax.settings.schema import Comparison, RunConfig


def base() -> ConfigDict:
  """All settings of a run at their defaults, for a recipe to change."""
  return _defaults(RunConfig())


def method(name: str, **hyperparameters: Any) -> ConfigDict:
  """The section of a method: its hyperparameters, some of them replaced.

  Args:
    name: a method of this package, or `module:Class`.
    **hyperparameters: values that differ from the defaults.

  Raises:
    ConfigError: if the name or a hyperparameter is unknown.
  """
  methods.require_known(name, hyperparameters)
  standard = methods.options(name)
  # A command line reads a number as the recipe's type: 4 would refuse 4.5.
  given = {
    key: float(value)
    if type(value) is int and isinstance(standard[key], float)
    else value
    for key, value in hyperparameters.items()
  }
  return ConfigDict({"name": name, **standard, **given})


def freeze(config: RunConfig | ConfigDict | Mapping[str, Any]) -> RunConfig:
  """Reads the configuration of a run; missing keys have their defaults.

  Args:
    config: a configuration as a recipe makes it, or nested mappings.

  Raises:
    ConfigError: for an unknown key or None; other values are checked by
      `okd_jax.settings.config.check`.
  """
  if isinstance(config, RunConfig):
    return config
  return _section(RunConfig(), _plain(config), "config")


def freeze_comparison(
  config: Comparison | ConfigDict | Mapping[str, Any],
) -> Comparison:
  """Reads the configuration of a comparison, like `freeze` that of a run."""
  if isinstance(config, Comparison):
    return config
  return _section(Comparison(), _plain(config), "config")


def method_section(name: str, **hyperparameters: Any) -> Any:
  """The typed section of a method; other fields have their defaults.

  Raises:
    ConfigError: if the name or a hyperparameter is unknown.
  """
  methods.require_known(name, hyperparameters)
  values = {key: _value(value) for key, value in hyperparameters.items()}
  return _class_of(name)(name, **values)


def replace(config: Any, changes: Mapping[str, Any]) -> Any:
  """A copy of a section with other values, named by paths such as peers.net.

  A value that is as it follows from a changed one is changed with it, as on a
  command line.
  """
  values: dict[str, Any] = {}
  for path, value in changes.items():
    name, _, rest = path.partition(".")
    if rest:
      section = values.get(name, getattr(config, name))
      values[name] = replace(section, {rest: value})
    else:
      values[name] = value
  for field in dataclasses.fields(config):
    now = _following(field, values)
    before = _following(field, vars(config))
    if now is not None and before == getattr(config, field.name):
      values.setdefault(field.name, now)
  return dataclasses.replace(config, **values)


def as_dict(config: Any) -> dict[str, Any]:
  """A configuration as nested dictionaries, as in its file."""
  values = {
    field.name: getattr(config, field.name)
    for field in dataclasses.fields(config)
  }
  if isinstance(config, RunConfig) and config.method is None:
    del values["method"]
  return {
    name: as_dict(value) if dataclasses.is_dataclass(value) else value
    for name, value in sorted(values.items())
  }


def flatten(
  config: RunConfig | Comparison | ConfigDict | Mapping[str, Any],
  prefix: str = "",
) -> dict[str, Any]:
  """Every setting by its path, joined by dots."""
  if isinstance(config, RunConfig | Comparison):
    config = as_dict(config)
  flat: dict[str, Any] = {}
  for key, value in config.items():
    if isinstance(value, Mapping | ConfigDict):
      flat |= flatten(value, f"{prefix}{key}.")
    else:
      flat[prefix + key] = _value(value)
  return flat


def _defaults(section: Any) -> ConfigDict:
  made = ConfigDict(as_dict(section))
  for field in dataclasses.fields(section):
    if "follows" in field.metadata:
      source, function = field.metadata["follows"]
      made[field.name] = function(made.get_ref(source))
    elif dataclasses.is_dataclass(field.default):
      made[field.name] = _defaults(getattr(section, field.name))
  return made


def _plain(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
  return config.to_dict() if isinstance(config, ConfigDict) else dict(config)


def _section(default: Any, given: Any, path: str) -> Any:
  """An instance of the default's class with the values that are given."""
  if not isinstance(given, Mapping):
    raise ConfigError(
      f"{path}={given!r} must be a section; change one of its keys."
    )
  fields = {field.name: field for field in dataclasses.fields(default)}
  values: dict[str, Any] = {}
  for key, value in given.items():
    if key not in fields:
      raise ConfigError(
        f"{path} has no key '{key}'{closest(key, fields)} See docs/settings.md."
      )
    standard = getattr(default, key)
    if dataclasses.is_dataclass(standard):
      values[key] = _section(standard, value, f"{path}.{key}")
    elif isinstance(default, RunConfig) and key == "method":
      values[key] = _method(value, f"{path}.{key}")
    elif value is None and standard is not None:
      # Not left to the checks: devices are counted before them.
      raise rules.unset(f"{path}.{key}")
    else:
      values[key] = _value(value)
  for name, field in fields.items():
    if (follows := _following(field, values)) is not None:
      values.setdefault(name, follows)
  return dataclasses.replace(default, **values)


def _following(field: dataclasses.Field[Any], values: Mapping[str, Any]) -> Any:
  """What a field is by the one that it follows; None if it follows none."""
  source, function = field.metadata.get("follows", ("", None))
  number = values.get(source)
  return function(number) if isinstance(number, int) else None


def _method(given: Any, path: str) -> Any:
  if not isinstance(given, Mapping):
    raise ConfigError(
      f"{path}={given!r} must be a section; a recipe makes it with "
      "common.method(NAME)."
    )
  hyperparameters = dict(given)
  name = hyperparameters.pop("name", None)
  return method_section(name, **hyperparameters)


@functools.cache
def _class_of(name: str) -> Any:
  """The class of a method's section: its name, then the method's own fields."""
  return dataclasses.make_dataclass(
    "Method",
    [("name", str)]
    + [
      (
        field.name,
        field.type,
        dataclasses.field(default=field.default, metadata=field.metadata),
      )
      for field in methods.fields(name)
    ],
    frozen=True,
  )


def _value(value: Any) -> Any:
  return tuple(value) if isinstance(value, list) else value
