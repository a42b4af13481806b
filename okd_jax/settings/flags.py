"""Reads a recipe and the settings that a command line changes in it."""

from collections.abc import Sequence
from pathlib import Path
import re
import sys
from typing import Any

from absl import flags
from ml_collections import config_flags, ConfigDict

from okd_jax import methods
from okd_jax.errors import closest, ConfigError
from okd_jax.settings import flag_errors, freeze
from okd_jax.storage import paths

# Also of two words, which are joined by a line's end.
_RECIPE = re.compile(r"^--?config[=\n]([^:\n]+)", re.MULTILINE)
_OUTSIDE = re.compile(r"--?config\.method\.name=(.+:.+)")
_OF_METHOD = re.compile(r"--?config\.method\.(\w+)=")
_OVERRIDE = re.compile(r"--?config\.([\w.]+)")


def read(argv: Sequence[str]) -> tuple[ConfigDict, str, str | None]:
  """Reads the flags --config, --config.KEY, --data and --workdir.

  Args:
    argv: the program's name and its arguments.

  Returns:
    The result of the recipe, with the changes; the name of its file; the work
    directory, None if none is given.

  Raises:
    ConfigError: for every mistake in the flags.
  """
  argv = _with_paths(argv)
  _find_modules_of(argv)
  outside = list(filter(None, map(_OUTSIDE.match, argv)))
  own = [word for word in argv if outside and _OF_METHOD.match(word)]
  plain = [word for word in argv if word not in own]
  known, recipe = _define(plain)
  try:
    rest = known(plain)
    _require_recipe(known, recipe)
    if outside:
      with recipe.value.unlocked():
        recipe.value.method = _method(outside[-1][1], own)
  except ConfigError:
    raise
  except Exception as error:  # a recipe is Python and may raise anything
    _require_known_keys(plain)
    raise flag_errors.explain(error) from error
  if rest[1:]:
    raise ConfigError(
      f"unexpected argument '{rest[1]}'; settings are given as "
      "--config.key=value."
    )
  if known["data"].value:
    section = recipe.value.get("base", recipe.value)
    section.data.dir = known["data"].value
  named = config_flags.get_config_filename(known["config"])
  return recipe.value, named, known["workdir"].value


def without_workdir(argv: Sequence[str]) -> list[str]:
  """The arguments of a command without --workdir, for another one."""
  known = flags.FlagValues()
  flags.DEFINE_string("workdir", None, "Where results go.", flag_values=known)
  known.set_gnu_getopt()
  return known(["", *argv], known_only=True)[1:]


def _with_paths(argv: Sequence[str]) -> list[str]:
  """The arguments, with ~ and $VARIABLES in the path of a recipe replaced."""
  given = list(argv)
  for place, word in enumerate(argv):
    before, equals, name = word.partition("=")
    if not equals:
      before, name = argv[place - 1] if place else "", word
    path, colon, words = name.partition(":")
    if path and before in ("--config", "-config"):
      start = "--config=" if equals else ""
      given[place] = f"{start}{paths.expand(path)}{colon}{words}"
  return given


def _find_modules_of(argv: Sequence[str]) -> None:
  """Lets a recipe and its method's module be in any folder, side by side."""
  for name in _RECIPE.findall("\n".join(argv)):
    folder = str(Path(name).resolve().parent)
    if folder not in sys.path:
      sys.path.append(folder)


def _method(name: str, own: Sequence[str]) -> ConfigDict:
  """The section of a method from outside, with its flags in a command line."""
  config = ConfigDict({"method": freeze.method(name)})
  keys = (found[1] for found in map(_OF_METHOD.match, own) if found)
  methods.require_known(name, {key: None for key in keys if key != "name"})
  known = flags.FlagValues()
  config_flags.DEFINE_config_dict(
    "config", config, flag_values=known, sys_argv=["", *own]
  )
  known(["", *own])
  return config.method


def _define(argv: Sequence[str]) -> tuple[flags.FlagValues, Any]:
  known = flags.FlagValues()
  recipe = config_flags.DEFINE_config_file(
    "config",
    None,
    "A recipe, such as configs/okddip_c100.py.",
    flag_values=known,
    lock_config=True,
    sys_argv=list(argv),
  )
  flags.DEFINE_string("workdir", None, "Where results go.", flag_values=known)
  flags.DEFINE_string(
    "data", None, "The same as --config.data.dir.", flag_values=known
  )
  return known, recipe


def _require_recipe(known: flags.FlagValues, recipe: Any) -> None:
  """Refuses a command line without a recipe; raises what reading one raised."""
  if not known["config"].present:
    raise ConfigError(
      "--config is missing; name a recipe, for example "
      "--config=configs/okddip_digits.py."
    )
  if not hasattr(recipe.value, "to_dict"):
    raise ConfigError(
      f"get_config of the recipe returns a {type(recipe.value).__name__}; it "
      "must return the ConfigDict that common.base() made."
    )


def _require_known_keys(argv: Sequence[str]) -> None:
  """Refuses the first key of a command line that the recipe does not have."""
  plain = [word for word in argv if not _OVERRIDE.match(word)]
  known, recipe = _define(plain)
  try:
    known(plain)
    _require_recipe(known, recipe)
  except ConfigError:
    raise
  except Exception:  # the recipe itself is at fault
    return
  for path in filter(None, map(_OVERRIDE.match, argv)):
    section, name = recipe.value, "config"
    for key in path[1].split("."):
      if not isinstance(section, ConfigDict):
        raise ConfigError(f"{name} is one value; it has no key '{key}'.")
      if key not in section:
        raise ConfigError(
          f"{name} has no key '{key}'{_meant(key, section, recipe.value)} See "
          "docs/settings.md."
        )
      section, name = section[key], f"{name}.{key}"
    if isinstance(section, ConfigDict):
      raise ConfigError(
        f"{name} is a section; change one of its keys, such as "
        f"--{name}.{next(iter(section))}."
      )


def _meant(key: str, section: ConfigDict, whole: ConfigDict) -> str:
  """Ends a sentence about a key that its section does not have."""
  close = closest(key, section)
  named = [p for p in freeze.flatten(whole) if p.rpartition(".")[2] == key]
  if close == "." and len(named) == 1:
    return f"; did you mean 'config.{named[0]}'?"
  return close
