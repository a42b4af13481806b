"""Draws all pictures of work directories."""

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
    workdirs: folders of runs, of several seeds of a run, or of comparisons.
      Several are drawn into the same pictures.
    to: folder for the pictures; by default `plots` in the work directory, or
      `plots/together` in the first of several.

  Returns:
    The files written.

  Raises:
    ConfigError: if a folder holds neither a run nor a comparison.
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
