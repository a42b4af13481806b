"""JSON that every reader accepts: null where a figure is not finite."""

from collections.abc import Mapping, Sequence
import json
import math
from typing import Any


def text(content: Any, indent: int | None = 2) -> str:
  """JSON of nested mappings and sequences, without a newline at the end.

  Args:
    content: any content for `json.dumps`; nan and infinities become null.
    indent: indentation of nested values; None writes one line.
  """
  return json.dumps(_finite(content), indent=indent, allow_nan=False)


def with_nan(figures: Mapping[str, Any]) -> dict[str, Any]:
  """Figures as they were before `text`: nan in the place of null."""
  return {
    name: math.nan if value is None else value
    for name, value in figures.items()
  }


def _finite(content: Any) -> Any:
  if isinstance(content, Mapping):
    return {name: _finite(value) for name, value in content.items()}
  if isinstance(content, Sequence) and not isinstance(content, str):
    return [_finite(value) for value in content]
  if isinstance(content, float) and not math.isfinite(content):
    return None
  return content
