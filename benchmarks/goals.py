"""What the results of `benchmarks/device.sh` say about the goals.

python -m benchmarks.goals FOLDER
"""

import json
from pathlib import Path
import statistics
import sys

_EPOCHS, _IMAGES = 300, 50_000
_OURS = "jax chunk"


class Results:
  """The JSON files of one folder; what is missing is None."""

  def __init__(self, folder: Path):
    self._folder = folder

  def per_image(self, file: str, variant: str = _OURS) -> float | None:
    """Median seconds of a group for an image."""
    result = self._read(file)
    if result is None or variant not in result["variants"]:
      return None
    seconds = statistics.median(result["variants"][variant]["step_seconds"])
    return seconds / result["setting"]["batch"]

  def peers(self, file: str) -> int:
    result = self._read(file)
    return result["setting"]["peers"] if result else 0

  def ratio(
    self, file: str, variant: str, to_file: str, to_variant: str = _OURS
  ) -> float | None:
    """How much longer an image takes the first than the second."""
    a, b = self.per_image(file, variant), self.per_image(to_file, to_variant)
    return None if a is None or b is None else a / b

  def _read(self, file):
    path = self._folder / f"{file}.json"
    return json.loads(path.read_text()) if path.exists() else None


def lines(found: Results) -> list[tuple[str, str, str]]:
  """Returns (what, figure, goal)."""

  def times(ratio):
    return "not measured" if ratio is None else f"{ratio:.2f}"

  def percent(ratio):
    return "not measured" if ratio is None else f"{100 * (ratio - 1):+.1f} %"

  main = "okddip_bf16"
  seconds = found.per_image(main)
  single = found.ratio(main, _OURS, "single_bf16")
  return [
    (
      "speed, eager PyTorch in bfloat16 = 1",
      times(found.ratio(main, "torch", main)),
      "5",
    ),
    (
      "speed, compiled PyTorch in bfloat16 = 1",
      times(found.ratio(main, "torch compiled", main)),
      "2",
    ),
    (
      f"minutes for {_EPOCHS} epochs of {_IMAGES} images, extrapolated",
      "not measured"
      if seconds is None
      else f"{_EPOCHS * _IMAGES * seconds / 60:.1f}",
      "at most 8",
    ),
    (
      "time over the same networks without a method",
      percent(found.ratio(main, _OURS, "independent_bf16")),
      "at most +5 %",
    ),
    (
      "time of the group, as many single networks = 1",
      times(single and single / found.peers(main)),
      "at most 1",
    ),
    *(
      (f"time {what} = 1", times(found.ratio(file, _OURS, main)), "")
      for what, file in (
        ("with vmap over the peers, mapping auto", "vmap_bf16"),
        ("unrolled over the peers, mapping auto", "unroll_bf16"),
      )
    ),
    (
      "time of config.deterministic",
      percent(found.ratio("deterministic_bf16", _OURS, main)),
      "",
    ),
  ]


def main(folder: str) -> None:
  for what, figure, goal in lines(Results(Path(folder))):
    print(f"{what:62} {figure:>14}  {goal and f'(goal: {goal})'}")


if __name__ == "__main__":
  main(sys.argv[1])
