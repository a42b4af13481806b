"""The table of docs and README, from results of `benchmarks.train_step --json`.

python -m benchmarks.table benchmarks/results/*.json
"""

import json
from pathlib import Path
import statistics
import sys
from typing import Any


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
  """One row a variant; ratios are to the fastest variant of PyTorch."""
  setting, found = result["setting"], result["variants"]
  group = (
    f"{setting['peers']} {setting['net']} {setting['kind']}, "
    f"{setting['method']}, batch {setting['batch']}, {setting['precision']}"
  )
  medians = {
    name: statistics.median(v["step_seconds"]) for name, v in found.items()
  }
  per_image = {
    name: median / setting["batch"] for name, median in medians.items()
  }
  reference = min(
    (v for name, v in per_image.items() if name.startswith("torch")),
    default=None,
  )
  made = []
  for name, each in found.items():
    median = medians[name]
    speed = f"{reference / per_image[name]:.2f}" if reference else ""
    start = f"{each['cold']['total']:.1f}"
    if "warm" in each:
      start += f" / {each['warm']['total']:.1f}"
    mesh = "x".join(map(str, setting["mesh"]))
    shown = name
    if name.startswith("jax"):
      shown += f", mesh {mesh}"
      if setting["mapping"] != "auto":
        shown += f", {setting['mapping']}"
    made.append(
      (
        group,
        shown,
        f"{_milliseconds(median)} ({_milliseconds(min(each['step_seconds']))} "
        f"to {_milliseconds(max(each['step_seconds']))})",
        f"{1 / per_image[name]:.0f}",
        speed,
        start,
      )
    )
  return made


def _milliseconds(seconds: float) -> str:
  return f"{1e3 * seconds:.{0 if seconds > 0.1 else 1}f}"


def main(paths: list[str]) -> None:
  header = (
    "group",
    "program",
    "ms a step",
    "images/s",
    "speed, best PyTorch = 1",
    "s to first step, cold / warm",
  )
  print("| " + " | ".join(header) + " |")
  print("|" + "---|" * len(header))
  for path in paths:
    for row in rows(json.loads(Path(path).read_text())):
      print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
  main(sys.argv[1:])
