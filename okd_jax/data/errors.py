"""The one exception for data that is missing, damaged or not as expected."""


class DataError(Exception):
  """A data problem: what was found, what was expected and what to do."""
