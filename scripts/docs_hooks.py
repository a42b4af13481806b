"""Puts published figures into the pages of docs/.

`<!-- published: METHOD -->` becomes a table of the figures that
configs/published.json holds for a method.
"""

import json
from pathlib import Path
import re
from typing import Any

_PUBLISHED = Path(__file__).parents[1] / "configs" / "published.json"
_MARK = re.compile(r"<!-- published: (\w+) -->")
_DATA = {
  "cifar10": "CIFAR-10",
  "cifar100": "CIFAR-100",
  "mpii": "MPII",
  "coco_keypoints": "COCO",
}
# Figures in percent that are not top-1, and what they are.
_OTHERS = {"pckh": "PCKh@0.5", "ap": "OKS AP"}


def on_page_markdown(markdown: str, **_: Any) -> str:
  """Puts the tables of figures in."""
  return _MARK.sub(lambda found: _table(found[1]), markdown)


def _kind(row: dict[str, Any]) -> str:
  return next((name for name in _OTHERS if name in row), "error")


def _table(method: str) -> str:
  content = json.loads(_PUBLISHED.read_text())
  rows = [row for row in content["figures"] if row["method"] == method]
  if not rows:
    return "None is known."
  sources = list(dict.fromkeys(row["source"] for row in rows))
  said = dict.fromkeys(_OTHERS.get(_kind(row), "top-1 error") for row in rows)
  lines = [
    f"| data | network | {' or '.join(said)} in % | source |",
    "|---|---|---|---|",
  ]
  for row in rows:
    error = row.get(_kind(row))
    if error is None:
      error = 100 - row["accuracy"]
    spread = f" ± {row['std']:.2f}" if "std" in row else ""
    group = f"{row.get('num_peers', '')} {row.get('kind', '')}".strip()
    network = f"{row.get('nets', row['net'])} {group}".strip()
    lines.append(
      f"| {_DATA[row['data']]} | {network} | {error:.2f}{spread} | "
      f"{sources.index(row['source']) + 1} |"
    )
  notes = [
    f"{i}. {content['sources'][name]}." for i, name in enumerate(sources, 1)
  ]
  return "\n".join([*lines, "", "Sources:", "", *notes])
