"""One figure of a task, and how people read it."""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True)
class Measure:
  """One figure of a task.

  Attributes:
    name: name in records, for example "accuracy".
    title: title of columns in tables, for example "top-1".
    higher_is_better: whether the higher of two values is the better one.
    fraction: whether it is a share of the examples, which is shown in percent.
    counts: for a share, what these examples are called, for example "correct".
    phrase: name in a sentence; "" for the name without underscores.
    min_classes: with fewer classes its value is known, and tables leave it out.
  """

  name: str
  title: str
  higher_is_better: bool = True
  fraction: bool = True
  counts: str = ""
  phrase: str = ""
  min_classes: int = 0

  @property
  def words(self) -> str:
    """The name as it is written in a sentence."""
    return self.phrase or self.name.replace("_", " ")

  @property
  def heading(self) -> str:
    """The same at the beginning of a sentence."""
    return self.words[:1].upper() + self.words[1:]

  @property
  def unit(self) -> str:
    """The unit to add to the name where numbers are shown without one."""
    return " in %" if self.fraction else ""

  def scaled(self, value: Any) -> Any:
    """The number that is shown: a fraction in percent."""
    return 100 * value if self.fraction else value

  def text(self, value: float) -> str:
    """The number that is shown, with its unit: 0.4512 is "45.12 %"."""
    return f"{100 * float(value):.2f} %" if self.fraction else f"{value:.4f}"

  def spread(self, mean: float, deviation: float) -> str:
    """Mean and standard deviation as they are shown: "45.12 ± 0.30 %"."""
    if self.fraction:
      return f"{100 * mean:.2f} ± {100 * deviation:.2f} %"
    return f"{mean:.4f} ± {deviation:.4f}"

  def merit(self, value: float) -> float:
    """A number that is higher for a better value."""
    return value if self.higher_is_better else -value


def place_of_best(merits: Sequence[float]) -> int:
  """The index of the best evaluation, of equal ones the last.

  Args:
    merits: `Measure.merit` of every evaluation. One that is not finite is never
      the best; if none is finite, the last evaluation counts as such.
  """
  finite = [(m, i) for i, m in enumerate(merits) if math.isfinite(m)]
  return max(finite)[1] if finite else len(merits) - 1
