"""Compares rows of comparisons that lie in different folders, seed by seed.

A comparison tabulates the differences between its own rows. This does the same
for two rows of any folders, whose runs are in seed0, seed1, ...; with the mean
and the deviation of each over the seeds that both have:

    python -m scripts.paired A/resnet8/one B/resnet8/independent \\
      --figures=test/leader/accuracy,test/ensemble/accuracy
"""

import argparse
from pathlib import Path
import statistics

from okd_jax.results import differences
from okd_jax.runs import outcome


def figures(row: Path, name: str) -> dict[int, float]:
  """A figure at the last epoch in %, by seed, of the runs that have ended."""
  found = {}
  for workdir in sorted(row.glob("seed*")):
    summary = outcome.read(workdir)
    if summary is not None:
      if name not in summary["last"]:
        known = ", ".join(key for key in summary["last"] if "/" in key)
        raise SystemExit(f"{workdir} has no figure {name}, but {known}.")
      found[int(workdir.name.removeprefix("seed"))] = (
        100 * summary["last"][name]
      )
  return found


def main(args: list[str] | None = None) -> None:
  """Prints a line for every pair of figures."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("ours", type=Path)
  parser.add_argument("theirs", type=Path)
  parser.add_argument("--figures", default="test/leader/accuracy")
  parser.add_argument(
    "--with-figures", help="those of the other row, by default the same"
  )
  asked = parser.parse_args(args)
  names = asked.figures.split(",")
  others = (asked.with_figures or asked.figures).split(",")
  for name, other in zip(names, others, strict=True):
    ours, theirs = figures(asked.ours, name), figures(asked.theirs, other)
    seeds = sorted(ours.keys() & theirs.keys())
    difference = differences.paired(ours, theirs)
    if difference is None:
      raise SystemExit(f"{name}: fewer than two seeds in common, {seeds}.")
    each = (
      f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"
      for values in ([row[seed] for seed in seeds] for row in (ours, theirs))
    )
    print(f"{name}, seeds {seeds}: {' - '.join(each)} = {difference}")


if __name__ == "__main__":
  main()
