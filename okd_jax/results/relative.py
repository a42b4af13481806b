"""Finds rows of a comparison that belong together, and compares their times."""

from collections.abc import Sequence

from okd_jax.results.grid import BASELINE
from okd_jax.results.rows import Row


def counterpart(row: Row, rows: Sequence[Row], method: str) -> Row | None:
  """The row of another method with the same values, as far as they apply to it.

  Args:
    row: row whose counterpart is wanted.
    rows: rows of the same network.
    method: method of the row to find.
  """
  alike = (r for r in rows if r.values.items() <= row.values.items())
  return next((r for r in alike if r.method == method), None)


def times(row: Row, rows: Sequence[Row]) -> tuple[float | None, float | None]:
  """Training time relative to one network, and to P independent networks.

  Args:
    row: row of interest.
    rows: rows of the same network.

  Returns:
    The two ratios; None without such a row or without measured times.
  """

  def relative_to(other: Row | None) -> float | None:
    if other is None or other.seconds is None or row.seconds is None:
      return None
    return row.seconds / other.seconds

  several = counterpart(row, rows, "independent")
  same_size = "replicas", row.num_peers
  if several and (several.kind, several.num_peers) != same_size:
    several = None
  return relative_to(counterpart(row, rows, BASELINE)), relative_to(several)
