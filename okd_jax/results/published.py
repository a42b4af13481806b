"""Published figures, which tables show beside those of a comparison."""

from collections.abc import Mapping
import json
from typing import Any

from okd_jax import tasks
from okd_jax.results import rows as results
from okd_jax.results.rows import Row
from okd_jax.storage import files
from okd_jax.storage.paths import Path


def read(workdir: Path) -> dict[str, Any]:
  """The figures from papers that a comparison shows beside its own."""
  return parse(files.content(workdir / results.PUBLISHED))


def parse(content: bytes) -> dict[str, Any]:
  """Parses figures from papers.

  Args:
    content: content of a file like configs/published.json.

  Raises:
    ValueError: if it is not JSON or lacks something that tables need.
  """
  measures = [m.name for name in tasks.NAMES for m in tasks.load(name).measures]
  known = json.loads(content)
  if not isinstance(known, dict) or not {"sources", "figures"} <= set(known):
    raise ValueError("it has no 'sources' and 'figures'")
  for figure in known["figures"]:
    if missing := {"data", "net", "method", "source"} - set(figure):
      raise ValueError(f"a figure has no '{min(missing)}': {figure}")
    if figure["source"] not in known["sources"]:
      raise ValueError(f"'sources' has no '{figure['source']}'")
    values = [figure[name] for name in ("error", *measures) if name in figure]
    if not values or not all(isinstance(v, int | float) for v in values):
      raise ValueError(
        "a figure must have a number in percent under 'error' or the name of a "
        f"measure, one of {', '.join(measures)}: {figure}"
      )
  return known


def matching(row: Row, known: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Published figures that belong to a row.

  Data, network and method must be the same, and of the group (its kind, number
  of peers and networks) what the published figure states. Figures without the
  row's measure are left out.

  Args:
    row: row of the comparison.
    known: published figures, as from `read`.
  """
  return [
    figure
    for figure in known["figures"]
    if (figure["data"], figure["net"], figure["method"])
    == (row.data, row.net, row.name)
    and not {"error", row.measure.name}.isdisjoint(figure)
    and all(
      figure[fact] == getattr(row, fact)
      for fact in ("kind", "num_peers", "nets")
      if fact in figure
    )
  ]


def headline(figure: Mapping[str, Any], row: Row) -> float:
  """The value of a published figure, as the row's measure is shown."""
  if "error" in figure:
    return 100 - figure["error"]
  value: float = figure[row.measure.name]
  return value
