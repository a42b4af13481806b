"""Statistics of the differences between rows of a comparison."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import statistics

import numpy as np
from scipy import special

from okd_jax.runs.spread import deviation

CONFIDENCE = 0.95
# The greatest number of seeds that is searched for; more than anybody trains.
MOST_SEEDS = 1000


@dataclasses.dataclass(frozen=True)
class Difference:
  """The difference between two rows, over the seeds that both have.

  Attributes:
    mean: mean of the differences.
    margin: half the width of the confidence interval of the mean, by Student's
      t at the level `CONFIDENCE`.
    seeds: number of seeds that both have.
    needed: if the interval contains 0, the smallest number of seeds whose
      interval would not, with the same mean and deviation; infinity above
      `MOST_SEEDS`. None if the interval does not contain 0.
  """

  mean: float
  margin: float
  seeds: int
  needed: float | None

  def __str__(self) -> str:
    if not math.isfinite(self.margin):
      return "nan"
    # Adding 0.0 removes the sign of a negative zero.
    return f"{round(self.mean, 2) + 0.0:+.2f} ± {self.margin:.2f}"


@dataclasses.dataclass(frozen=True)
class PeerEffect:
  """A test whether the figure of a peer depends on its index.

  Attributes:
    means: mean over seeds of every peer's figure.
    f: F statistic of an analysis of variance in which every seed is a block.
    p: probability of such an F or a greater one if the index has no effect.
  """

  means: Sequence[float]
  f: float
  p: float

  def __str__(self) -> str:
    p = f"{self.p:.2f}" if self.p >= 0.01 else f"{self.p:.1g}"
    return f"F {self.f:.2f}, p {p}"


def paired(
  ours: Mapping[int, float], theirs: Mapping[int, float]
) -> Difference | None:
  """Compares figures seed by seed.

  Args:
    ours: figures by seed.
    theirs: figures by seed, to be subtracted. Seeds that only one of both has
      are left out.

  Returns:
    The difference, nan if a figure is nan; None if there are fewer than two
    seeds in common.
  """
  shared = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
  if len(shared) < 2:
    return None
  mean, std = statistics.fmean(shared), deviation(shared)
  margin = _margin(std, len(shared))
  if not abs(mean) <= margin:  # not `>`, which would be false for nan
    return Difference(mean, margin, len(shared), None)
  numbers = range(2, MOST_SEEDS + 1)
  enough = (n for n in numbers if abs(mean) > _margin(std, n))
  return Difference(mean, margin, len(shared), next(enough, math.inf))


def peer_effect(figures: Sequence[Sequence[float]]) -> PeerEffect | None:
  """Tests whether the figures of equal peers depend on their index.

  Args:
    figures: for every seed, the figures of its peers, [N, P].

  Returns:
    The result; None if there are fewer than two seeds or peers, if nothing
    varies but the index and the seed, or if a figure is not finite.
  """
  values = np.asarray(figures, float)
  if values.ndim != 2 or min(values.shape) < 2 or not np.isfinite(values).all():
    return None
  num_seeds, num_peers = values.shape
  of_peers, of_seeds = values.mean(0), values.mean(1, keepdims=True)
  rest = values - of_peers - of_seeds + values.mean()
  left = np.sum(rest**2) / ((num_peers - 1) * (num_seeds - 1))
  if left < 1e-12:
    return None
  f = float(num_seeds * np.var(of_peers, ddof=1) / left)
  freedom = num_peers - 1, (num_peers - 1) * (num_seeds - 1)
  return PeerEffect(of_peers.tolist(), f, float(special.fdtrc(*freedom, f)))


def _margin(std: float, number: int) -> float:
  quantile = special.stdtrit(number - 1, (1 + CONFIDENCE) / 2)
  return float(quantile * std / math.sqrt(number))
