"""Rules for the values of settings, as metadata of dataclass fields.

    temperature: float = rules.positive(3.0)

Such a field says which values it accepts, and `check` refuses others. The
meaning of a field is in the docstring of its class, under "Attributes".
Further metadata, given as keyword arguments:

- `free_on_resume=True`: the setting changes no result, so it may differ when a
  run is resumed.
- `added=True`: runs of earlier releases lack the setting; they behaved as with
  its default.
- `follows=(name, function)`: the default is that function of another setting
  of the same class.
"""

from collections.abc import Callable
import dataclasses
import inspect
import math
import re
from typing import Any

from okd_jax.errors import ConfigError

# Beyond these float32 has no finite number, or only zero.
LARGEST, SMALLEST = 3.4e38, 1.2e-38

_KEY = "rule"
# What a value is, by the type of its default.
KINDS = {
  bool: "True or False",
  int: "a whole number",
  float: "a number",
  str: "a text",
  tuple: "a tuple",
}


@dataclasses.dataclass(frozen=True)
class Rule:
  """What a value must be.

  Attributes:
    accepts: function that says whether a value is allowed. A value of a type
      that cannot be compared with the bounds is not.
    expectation: the rule in words, which continue "must be".
    wrong: some values of the right type that are not allowed, for tests.
  """

  accepts: Callable[[Any], bool]
  expectation: str
  wrong: tuple[Any, ...] = ()

  def holds(self, value: Any) -> bool:
    """Whether a value is allowed."""
    try:
      return bool(self.accepts(value))
    except TypeError:
      return False


def field(default: Any, rule: Rule, **metadata: Any) -> Any:
  """A dataclass field with a default, a rule, and other metadata."""
  return dataclasses.field(default=default, metadata={_KEY: rule, **metadata})


def of(described: dataclasses.Field[Any]) -> Rule | None:
  """The rule of a dataclass field, if it has one."""
  return described.metadata.get(_KEY)


def positive(default: float, **metadata: Any) -> Any:
  """A field that holds a finite number above 0."""
  return field(default, POSITIVE, **metadata)


def at_least(default: float, low: float, **metadata: Any) -> Any:
  """A field that holds a finite number of at least `low`."""
  kind = type(default)
  rule = Rule(
    lambda v: _number(v) and low <= v <= LARGEST,
    f"a finite number of at least {low}",
    (kind(low - 1), kind(10) ** 300),
  )
  return field(default, rule, **metadata)


def between(default: float, low: float, high: float, **metadata: Any) -> Any:
  """A field that holds a number of at least `low` and below `high`."""
  kind = type(default)
  rule = Rule(
    lambda v: _number(v) and low <= v < high,
    f"at least {low} and below {high}",
    (kind(low - 1), kind(high), kind(10) ** 20),
  )
  return field(default, rule, **metadata)


def one_of(default: Any, *values: Any, **metadata: Any) -> Any:
  """A field that holds one of a few values."""
  texts = all(isinstance(value, str) for value in values)
  rule = Rule(
    lambda v: v in values,
    f"one of {', '.join(map(str, values))}",
    ("", "zzz") if texts else (),
  )
  return field(default, rule, **metadata)


def flag(default: bool, **metadata: Any) -> Any:
  """A field that holds True or False."""
  return one_of(default, True, False, **metadata)


def text(default: str, expectation: str, **metadata: Any) -> Any:
  """A field that holds a text, which is checked where it is used."""
  rule = Rule(lambda v: isinstance(v, str), expectation)
  return field(default, rule, **metadata)


def each(default: tuple[float, ...], entry: Rule, **metadata: Any) -> Any:
  """A field that holds a tuple of numbers, each with this rule, or empty."""
  rule = Rule(
    lambda v: all(entry.accepts(number) for number in v),
    f"empty, or numbers, each of them {entry.expectation}",
    (("a",), (None,), *((number,) for number in entry.wrong)),
  )
  return field(default, rule, **metadata)


def check(section: Any, path: str = "config") -> None:
  """Refuses the first value of a dataclass that breaks its field's rule.

  Args:
    section: an instance; fields that hold dataclasses are checked as well.
    path: prefix of the names of its fields, for example "config.optim".

  Raises:
    ConfigError: naming the value and what was expected.
  """
  for described in dataclasses.fields(section):
    value = getattr(section, described.name)
    if dataclasses.is_dataclass(value):
      check(value, f"{path}.{described.name}")
    else:
      check_value(described, value, path)


def check_value(
  described: dataclasses.Field[Any], value: Any, path: str
) -> None:
  """Refuses a value that breaks the rule of its field.

  Args:
    described: the field.
    value: a value that is not a dataclass.
    path: prefix of the name of the field.

  Raises:
    ConfigError: naming the value and what was expected.
  """
  name = f"{path}.{described.name}"
  if value is None:
    raise unset(name)
  rule = of(described)
  if rule and not rule.holds(value):
    raise ConfigError(f"{name}={value!r} must be {rule.expectation}.")
  kind = type(described.default)
  if kind in KINDS and not _is(value, kind):
    raise ConfigError(f"{name}={value!r} must be {KINDS[kind]}.")


def unset(name: str) -> ConfigError:
  """The error to raise for a field that is None."""
  return ConfigError(f"{name}=None must be set; leave it out for its default.")


def meanings(described: type) -> dict[str, str]:
  """What each field of a class means, from the class's docstring.

  Returns:
    One line of text by name, for every entry under "Attributes".
  """
  text = inspect.cleandoc(described.__doc__ or "")
  section = re.search(r"^Attributes:\n((?:  .*\n?|\n)*)", text, re.MULTILINE)
  entries = re.split(r"^  (?=\w+: )", section[1] if section else "", flags=re.M)
  pairs = (entry.split(": ", 1) for entry in entries if entry.strip())
  return {name: " ".join(meaning.split()) for name, meaning in pairs}


def _is(value: Any, kind: type) -> bool:
  if kind is float:
    return _number(value)
  if kind is int:
    return isinstance(value, int) and not isinstance(value, bool)
  return isinstance(value, kind)


def _number(value: Any) -> bool:
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and not math.isnan(value)
  )


POSITIVE = Rule(
  lambda v: _number(v) and SMALLEST <= v <= LARGEST,
  "a finite number above 0 in float32",
  (-1.0, 0.0, 1e-300, 1e300),
)
FINITE = Rule(
  lambda v: _number(v) and abs(v) <= LARGEST,
  "finite",
  (math.inf, math.nan),
)
