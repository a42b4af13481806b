"""Which parameters of a test the quick set takes."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def only(chosen: Collection[Any], values: Iterable[Any]) -> list[Any]:
  """`values`, of which all but the chosen ones are marked `long`.

  Those that are marked already stay as they are.
  """
  values = list(values)
  assert all(value in values for value in chosen), (chosen, values)
  marked = type(pytest.param())
  return [
    value
    if value in chosen or isinstance(value, marked)
    else pytest.param(value, marks=pytest.mark.long)
    for value in values
  ]
