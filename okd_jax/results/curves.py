"""Curves from records of one run, or mean and deviation over several runs."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

# The records of a run: steps, and the values that were measured there by key.
Records = Sequence[tuple[int, Mapping[Any, float]]]


@dataclasses.dataclass(frozen=True)
class Curve:
  """A value during training, at n points.

  Attributes:
    epochs: where it was measured, in epochs, float [n].
    values: the values, or their means over runs, float [n].
    deviation: sample standard deviation over runs, float [n]; None for a single
      run.
  """

  epochs: np.ndarray
  values: np.ndarray
  deviation: np.ndarray | None = None

  @property
  def ends(self) -> tuple[np.ndarray, np.ndarray]:
    """The values less the deviation, and those with it."""
    deviation = 0.0 if self.deviation is None else self.deviation
    return self.values - deviation, self.values + deviation

  def scaled(self, factor: float) -> "Curve":
    """The curve in another unit: values and deviation times a factor."""
    deviation = self.deviation
    return Curve(
      self.epochs,
      factor * self.values,
      None if deviation is None else factor * deviation,
    )


def of_runs(runs: Sequence[Records], epochs_a_step: float) -> dict[Any, Curve]:
  """The curve of every key, over the steps at which all runs have recorded it.

  Args:
    runs: records of one run or more.
    epochs_a_step: length of a step in epochs.
  """
  by_step = [dict(records) for records in runs]
  keys = dict.fromkeys(key for _, values in runs[0] for key in values)
  curves = {}
  for key in keys:
    steps = [
      step
      for step, _ in runs[0]
      if all(key in records.get(step, ()) for records in by_step)
    ]
    if not steps:
      continue
    measured = np.array(
      [[records[step][key] for step in steps] for records in by_step], float
    )
    curves[key] = Curve(
      np.array(steps) * epochs_a_step,
      measured.mean(0),
      measured.std(0, ddof=1) if len(runs) > 1 else None,
    )
  return curves
