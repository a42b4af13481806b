"""Confusions, figures of each class, reliability and agreement of peers."""

import dataclasses

import numpy as np

from okd_jax.tasks.classification import NUM_BINS


def confusion(
  label: np.ndarray, first: np.ndarray, num_classes: int
) -> np.ndarray:
  """Counts examples by true and predicted class.

  Args:
    label: true classes, int [N].
    first: predicted classes, int [N].
    num_classes: number C of classes.

  Returns:
    The confusion matrix, int64 [C, C], with one row for each true class.
  """
  cells = label.astype(np.int64) * num_classes + first
  counts = np.bincount(cells, minlength=num_classes**2)
  return counts.reshape(num_classes, num_classes)


@dataclasses.dataclass(frozen=True)
class ByClass:
  """Figures of C classes as fractions; nan where there is nothing to count.

  Attributes:
    count: number of examples of the class, int [C].
    accuracy: how often the leader is right about whether an example belongs
      to the class, float [C].
    precision: fraction of the examples predicted as the class that are of the
      class, float [C].
    recall: fraction of the examples of the class that are predicted as the
      class, float [C].
  """

  count: np.ndarray
  accuracy: np.ndarray
  precision: np.ndarray
  recall: np.ndarray


def by_class(matrix: np.ndarray) -> ByClass:
  """Figures of each class, from a confusion matrix [C, C]."""
  right = np.diag(matrix)
  are, said = matrix.sum(1), matrix.sum(0)
  wrong = are + said - 2 * right
  with np.errstate(invalid="ignore"):
    return ByClass(are, 1 - wrong / matrix.sum(), right / said, right / are)


def frequent(matrix: np.ndarray, most: int) -> list[tuple[int, int, int]]:
  """The most frequent confusions, as (true class, predicted class, count).

  Args:
    matrix: confusion matrix, int [C, C].
    most: how many to return at most.
  """
  mistakes = matrix - np.diag(np.diag(matrix))
  order = np.argsort(-mistakes, axis=None, kind="stable")[:most]
  pairs = zip(*np.unravel_index(order, matrix.shape), strict=True)
  found = [(int(a), int(b), int(mistakes[a, b])) for a, b in pairs]
  return [each for each in found if each[2]]


@dataclasses.dataclass(frozen=True)
class Reliability:
  """Accuracy of a network by its confidence, in bins of equal width.

  Attributes:
    count: number of examples in each bin, int [NUM_BINS].
    confidence: their mean confidence, float [NUM_BINS]; nan for an empty bin.
    accuracy: fraction that is right, float [NUM_BINS]; nan for an empty bin.
  """

  count: np.ndarray
  confidence: np.ndarray
  accuracy: np.ndarray

  @property
  def error(self) -> float:
    """The expected calibration error, a fraction."""
    gaps = np.abs(self.accuracy - self.confidence) * self.count
    return float(np.nansum(gaps) / self.count.sum())


def reliability(confidence: np.ndarray, right: np.ndarray) -> Reliability:
  """Sorts examples into bins by their confidence.

  Args:
    confidence: probability of the predicted class, float [N].
    right: whether the prediction is right, bool [N].
  """
  bins = np.clip((confidence * NUM_BINS).astype(int), 0, NUM_BINS - 1)
  count = np.bincount(bins, minlength=NUM_BINS)
  with np.errstate(invalid="ignore"):
    sure = np.bincount(bins, confidence, NUM_BINS) / count
    return Reliability(count, sure, np.bincount(bins, right, NUM_BINS) / count)


def agreement(first: np.ndarray) -> np.ndarray:
  """Fraction of examples for which two peers predict the same class.

  Args:
    first: predicted classes, int [P, N].

  Returns:
    float [P, P].
  """
  return np.mean(first[:, None] == first[None], axis=-1)
