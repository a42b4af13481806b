"""Which parameters of a dear test are in the quick set."""

import pytest


def some(values, *kept):
  """All values; tests of others than those kept are run by `make test-long`."""
  assert set(kept) <= set(values)
  return [
    value if value in kept else pytest.param(value, marks=pytest.mark.long)
    for value in values
  ]
