"""Errors that users can meet: one class for each exit code."""

from collections.abc import Iterable
import difflib


class OkdError(Exception):
  """Base of the errors whose message says what a user can do.

  Attributes:
    exit_code: exit code of a program that ends with this error.
  """

  exit_code = 1


class ConfigError(OkdError, ValueError):
  """A configuration that cannot be run; the message says what to change."""

  exit_code = 2


class DataError(OkdError):
  """Data that are missing, damaged or not as expected."""

  exit_code = 3


class UnreachableError(OkdError):
  """Data in a bucket that cannot be read at this moment."""

  exit_code = 5


class NotFiniteError(OkdError, RuntimeError):
  """Training diverged; the last good checkpoint is kept."""

  exit_code = 4


class CheckpointError(OkdError, RuntimeError):
  """A checkpoint that could not be saved or must not be used."""

  exit_code = 5


class LeaderError(OkdError, ValueError):
  """An exported network that is damaged or incomplete."""

  exit_code = 5


class WeightsError(OkdError, ValueError):
  """Trained weights that are damaged, or of another network."""

  exit_code = 5


class RunLockError(OkdError, RuntimeError):
  """A work directory that another run uses, or that cannot be locked."""

  exit_code = 6


class InUseError(RunLockError):
  """A work directory that another run uses at this moment."""


class Interrupted(OkdError):
  """A run that was asked to stop and has saved its state."""

  exit_code = 75


def closest(word: str, known: Iterable[str]) -> str:
  """Ends a sentence about an unknown word, with a suggestion if there is one.

  Args:
    word: the word as it was written.
    known: the words that could have been meant.
  """
  close = difflib.get_close_matches(str(word), list(known), 1)
  return f"; did you mean '{close[0]}'?" if close else "."
