"""How sure a difference between the rows of a comparison is."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import statistics

import numpy as np
from scipy import stats

from okd_jax.runs.spread import deviation

CONFIDENCE = 0.95
# More runs than anybody makes for one row.
_MOST = 1000


@dataclasses.dataclass(frozen=True)
class Difference:
  """Between two rows, over the seeds that both have.

  Attributes:
    mean: of the differences.
    margin: half the width of the interval in which the true mean lies, by
      Student's t at `CONFIDENCE`.
    needed: where the interval holds 0, the least number of seeds whose interval
      would not, were mean and deviation to stay as they are; None if it does
      not hold 0, and infinity beyond 1000 seeds.
  """

  mean: float
  margin: float
  needed: float | None

  def __str__(self) -> str:
    # Without the sign of a negative zero.
    return f"{round(self.mean, 2) + 0.0:+.2f} ± {self.margin:.2f}"


@dataclasses.dataclass(frozen=True)
class PeerEffect:
  """Whether the index of a peer decides about its figure.

  Attributes:
    means: of every peer, over seeds.
    f: of an analysis of variance in which every seed is a block.
    p: how likely so large an f is among peers that are alike.
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
    theirs: likewise; what only one of both has is left out.

  Returns:
    Ours minus theirs, nan with a figure that is; None with less than two seeds
    in common.
  """
  shared = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
  if len(shared) < 2:
    return None
  mean, std = statistics.fmean(shared), deviation(shared)
  margin = _margin(std, len(shared))
  if not abs(mean) <= margin:  # so that nan needs no number of seeds
    return Difference(mean, margin, None)
  enough = (n for n in range(2, _MOST + 1) if abs(mean) > _margin(std, n))
  return Difference(mean, margin, next(enough, math.inf))


def peer_effect(figures: Sequence[Sequence[float]]) -> PeerEffect | None:
  """Tests whether peers that should be alike are.

  Args:
    figures: of every seed, and in it of every peer, [N, P].

  Returns:
    None with less than two seeds or peers, where nothing varies, and with a
    figure that is not finite.
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
  return PeerEffect(of_peers.tolist(), f, float(stats.f.sf(f, *freedom)))


def _margin(std: float, number: int) -> float:
  quantile = stats.t.ppf((1 + CONFIDENCE) / 2, number - 1)
  return float(quantile * std / math.sqrt(number))
