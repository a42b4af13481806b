"""Rules for the values of settings, as metadata of dataclass fields.

    temperature: float = rules.positive(3.0)

A field that is made so says what values it takes. Whoever builds the object
from a configuration asks `expectation` before, and refuses early.
"""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

# Beyond these float32 has no finite number, or only zero.
LARGEST, SMALLEST = 3.4e38, 1.2e-38

_KEY = "rule"


@dataclasses.dataclass(frozen=True)
class Rule:
  """What a value must be.

  Attributes:
    accepts: whether a value will do. A value of a type that cannot be compared
      with the bounds will not.
    expectation: the same for people; it goes on after "must be".
  """

  accepts: Callable[[Any], bool]
  expectation: str

  def holds(self, value: Any) -> bool:
    """Whether a value will do."""
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
  rule = Rule(
    lambda v: _number(v) and SMALLEST <= v <= LARGEST,
    "a finite number above 0 in float32",
  )
  return field(default, rule, **metadata)


def at_least(default: float, low: float, **metadata: Any) -> Any:
  """A field that holds a finite number of at least `low`."""
  rule = Rule(
    lambda v: _number(v) and low <= v <= LARGEST,
    f"a finite number of at least {low}",
  )
  return field(default, rule, **metadata)


def between(default: float, low: float, high: float, **metadata: Any) -> Any:
  """A field that holds a number of at least `low` and below `high`."""
  rule = Rule(
    lambda v: _number(v) and low <= v < high,
    f"at least {low} and below {high}",
  )
  return field(default, rule, **metadata)


def one_of(default: Any, *values: Any, **metadata: Any) -> Any:
  """A field that holds one of a few values."""
  rule = Rule(lambda v: v in values, f"one of {', '.join(map(str, values))}")
  return field(default, rule, **metadata)


def flag(default: bool, **metadata: Any) -> Any:
  """A field that holds True or False."""
  return one_of(default, True, False, **metadata)


def _number(value: Any) -> bool:
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and not math.isnan(value)
  )
