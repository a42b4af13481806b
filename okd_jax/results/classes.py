"""Figures of each class, from what examples were taken for."""

import dataclasses

import numpy as np

NUM_BINS = 15


def confusion(
  label: np.ndarray, first: np.ndarray, num_classes: int
) -> np.ndarray:
  """Counts examples by what they are and what they were taken for.

  Args:
    label: int [N].
    first: int [N], the choice of a network.
    num_classes: C.

  Returns:
    int64 [C, C], a row for what they are.
  """
  cells = label.astype(np.int64) * num_classes + first
  counts = np.bincount(cells, minlength=num_classes**2)
  return counts.reshape(num_classes, num_classes)


@dataclasses.dataclass(frozen=True)
class ByClass:
  """Figures of C classes as fractions; nan where there is nothing to count.

  Attributes:
    count: int [C], examples of the class.
    accuracy: [C], how often the leader is right about whether an example
      belongs to the class.
    precision: [C], of those taken for the class the share that is of it.
    recall: [C], of those of the class the share that was taken for it.
  """

  count: np.ndarray
  accuracy: np.ndarray
  precision: np.ndarray
  recall: np.ndarray


def by_class(matrix: np.ndarray) -> ByClass:
  """Figures of each class, from what `confusion` counted."""
  right = np.diag(matrix)
  are, said = matrix.sum(1), matrix.sum(0)
  wrong = are + said - 2 * right
  with np.errstate(invalid="ignore"):
    return ByClass(are, 1 - wrong / matrix.sum(), right / said, right / are)


def frequent(matrix: np.ndarray, most: int) -> list[tuple[int, int, int]]:
  """The most frequent confusions: what it is, what it was taken for, count."""
  mistakes = matrix - np.diag(np.diag(matrix))
  order = np.argsort(-mistakes, axis=None, kind="stable")[:most]
  pairs = zip(*np.unravel_index(order, matrix.shape), strict=True)
  found = [(int(a), int(b), int(mistakes[a, b])) for a, b in pairs]
  return [each for each in found if each[2]]


@dataclasses.dataclass(frozen=True)
class Reliability:
  """How often a network is right, by how sure it is.

  Attributes:
    count: int [bins], examples of equal parts of the confidences from 0 to 1.
    confidence: [bins], their mean; nan without examples.
    accuracy: [bins], the share that is right; nan without examples.
  """

  count: np.ndarray
  confidence: np.ndarray
  accuracy: np.ndarray

  @property
  def error(self) -> float:
    """The expected calibration error."""
    gaps = np.abs(self.accuracy - self.confidence) * self.count
    return float(np.nansum(gaps) / self.count.sum())


def reliability(confidence: np.ndarray, right: np.ndarray) -> Reliability:
  """Sorts examples by confidence.

  Args:
    confidence: [N], of the first choice.
    right: bool [N], whether that is the label.
  """
  bins = np.clip((confidence * NUM_BINS).astype(int), 0, NUM_BINS - 1)
  count = np.bincount(bins, minlength=NUM_BINS)
  with np.errstate(invalid="ignore"):
    sure = np.bincount(bins, confidence, NUM_BINS) / count
    return Reliability(count, sure, np.bincount(bins, right, NUM_BINS) / count)


def agreement(first: np.ndarray) -> np.ndarray:
  """Shares of examples that two of P choose alike: [P, P] from [P, N]."""
  return np.mean(first[:, None] == first[None], axis=-1)
