"""Which examples of a data set are for tests."""

from collections.abc import Callable, Container
from typing import Protocol, TypeVar

import numpy as np

from okd_jax.data import checks, order
from okd_jax.data.info import Split

_TEST = 0x7E58  # fixed: the test split of sets that have none


class _Labelled(Protocol):
  @property
  def labels(self) -> np.ndarray: ...


T = TypeVar("T", bound=_Labelled)


def first_known(splits: Container[str], read: Callable[[str], T]) -> T | None:
  """The first split for tests whose labels are known; None if there is none.

  Some publishers, such as that of ImageNet, keep the labels of their test
  split; all are -1 in a copy, and the validation split is for tests.

  Args:
    splits: names of the splits.
    read: returns the examples of a split.
  """
  for split in ("test", "validation"):
    if split in splits:
      found = read(split)
      if not len(found.labels) or (found.labels != -1).any():
        return found
  return None


def hold_out(split: Split, test_fraction: float) -> tuple[Split, Split]:
  """Holds out a fixed fraction of each class for testing."""
  train, test = hold_out_rows(split.labels, test_fraction)
  return (
    Split(split.images[train], split.labels[train]),
    Split(split.images[test], split.labels[test]),
  )


def hold_out_rows(
  labels: np.ndarray, test_fraction: float
) -> tuple[np.ndarray, np.ndarray]:
  """The same for labels [N]: positions to train on and to test on.

  Raises:
    ConfigError: if a fraction above 0 leaves nothing to test on.
  """
  count = checks.share(
    "config.data.test_fraction", test_fraction, len(labels), "pictures"
  )
  test, train = order.stratified(labels, count, _TEST)
  return train, test
