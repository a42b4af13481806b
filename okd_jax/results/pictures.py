"""Which pictures there are of work directories."""

from collections.abc import Sequence

from okd_jax.results import (
  comparison_plots,
  plots,
  rows as results,
  together,
  together_plots,
)
from okd_jax.storage.paths import Path


def draw(workdirs: Sequence[Path], to: Path | None = None) -> list[Path]:
  """Draws runs and comparisons, finished or not.

  Args:
    workdirs: of runs, of several seeds of a run, and of comparisons. Several
      are drawn into the same pictures.
    to: folder for the pictures; by default `plots` in the work directory, and
      `plots/together` in the first of several.

  Returns:
    The files written.

  Raises:
    ConfigError: if there is no run.
  """
  first, *others = workdirs
  if others:
    to = to or first / "plots" / "together"
    return together_plots.plot(together.entries(workdirs), to)
  if not results.exists(first):
    return plots.plot(first, to)
  to = to or first / "plots"
  drawn = comparison_plots.plot(first, to)
  begun = together.entries(workdirs)
  return drawn + (together_plots.plot(begun, to) if begun else [])
