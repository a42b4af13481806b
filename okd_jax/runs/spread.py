"""The results of the runs of several seeds: mean and standard deviation."""

from collections.abc import Mapping, Sequence
import math
import statistics
from typing import Any

from okd_jax.runs.outcome import SUMMARY
from okd_jax.runs.workdir import of_seed
from okd_jax.storage import files, strict_json
from okd_jax.storage.paths import Path
from okd_jax.tasks.figure import NOT_FIGURES

# Of the summary of a run, what all seeds have in common.
_COMMON = ("method", "net", "kind", "num_peers", "data", "epochs", "best_by")
_WHEN = ("last", "best")


def over(values: Sequence[Mapping[Any, float]]) -> dict[Any, dict[str, float]]:
  """Mean and sample standard deviation of every value that all runs have."""
  shared = [
    name for name in values[0] if all(name in found for found in values)
  ]
  spreads = {}
  for name in shared:
    numbers = [float(found[name]) for found in values]
    several = len(numbers) > 1
    spreads[name] = {
      "mean": statistics.fmean(numbers),
      "deviation": deviation(numbers) if several else 0.0,
    }
  return spreads


def deviation(values: Sequence[float]) -> float:
  """Sample standard deviation (n - 1) of two values or more; nan with a nan."""
  if not all(map(math.isfinite, values)):
    return math.nan
  return statistics.stdev(values)


def write(workdir: Path, results: Sequence[Mapping[str, Any]]) -> None:
  """Writes summary.json of several seeds.

  Args:
    workdir: work directory that contains the folders of the seeds.
    results: the summaries of all seeds.
  """
  seeds = [result["seed"] for result in results]
  content = {name: results[0][name] for name in _COMMON} | {
    "seeds": seeds,
    "runs": [of_seed(workdir, seed).name for seed in seeds],
    **{when: over([_figures(r[when]) for r in results]) for when in _WHEN},
  }
  files.write(workdir / SUMMARY, strict_json.text(content) + "\n")


def _figures(evaluation: Mapping[str, Any]) -> dict[str, float]:
  return {
    name: value for name, value in evaluation.items() if name not in NOT_FIGURES
  }
