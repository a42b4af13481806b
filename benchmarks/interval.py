"""How often to save: what is lost to saves, and to hosts that fail.

    python -m benchmarks.interval [--wait=0.04] [--saved=2.6] [--down=180]

prints the table of docs/scaling_out.md. The defaults are what `benchmarks.save`
has measured of 55 MB in a bucket, and a minute until a lost host is noticed
with two to start again.
"""

import argparse
from collections.abc import Iterator
import dataclasses
import math
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scaling_out.md"
DEFAULT_SECS = 60.0  # of config.checkpoint_secs
_DAY = 86400.0
_HOSTS = (1, 8, 32, 64)
_DAYS = (1, 30, 365)


@dataclasses.dataclass(frozen=True)
class Costs:
  """Seconds that a save and a failure take.

  Attributes:
    wait: that training waits for each save.
    saved: from the beginning of a save until it counts.
    down: from a failure until training goes on: it is noticed, the processes
      start, compile and restore.
  """

  wait: float = 0.04
  saved: float = 2.6
  down: float = 180.0


def best(between: float, costs: Costs) -> float:
  """The interval between saves that loses least time.

      sqrt(2 * wait * between)

  J. W. Young, A first order approximation to the optimum checkpoint interval,
  Communications of the ACM 17(9), 1974. J. T. Daly, A higher order estimate of
  the optimum checkpoint interval for restart dumps, Future Generation Computer
  Systems 22(3), 2006, comes to the same where saves are short. A save begins
  when the last one counts.

  Args:
    between: mean time between failures of the whole run.
    costs: of saves.
  """
  return max(math.sqrt(2 * costs.wait * between), costs.saved)


def lost(interval: float, between: float, costs: Costs) -> float:
  """The share of time that is lost, to first order in interval / between.

      wait / interval + (interval / 2 + saved + down) / between

  A failure costs what was trained since the last save that counts, which began
  half an interval ago on average and took `saved` to count, and the time until
  training goes on.

  Args:
    interval: between two saves.
    between: mean time between failures of the whole run.
    costs: of saves and failures.
  """
  failure = interval / 2 + costs.saved + costs.down
  return costs.wait / interval + failure / between


def table(costs: Costs) -> Iterator[str]:
  """Lines of Markdown for several numbers of hosts."""
  yield (
    "| a host fails every | hosts | the run fails every | best interval | lost "
    f"with it | lost with {DEFAULT_SECS:g} s | lost with 10 min |"
  )
  yield "|---" * 7 + "|"
  for days in _DAYS:
    for hosts in _HOSTS:
      between = days * _DAY / hosts
      chosen = best(between, costs)
      shares = (
        f"{100 * lost(secs, between, costs):.2f} %"
        for secs in (chosen, DEFAULT_SECS, 600.0)
      )
      yield (
        f"| {days} day{'s' if days > 1 else ''} | {hosts} | "
        f"{between / 3600:.1f} h | {chosen:.0f} s | {' | '.join(shares)} |"
      )


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for field in dataclasses.fields(Costs):
    parser.add_argument(f"--{field.name}", type=float, default=field.default)
  for line in table(Costs(**vars(parser.parse_args()))):
    print(line)


if __name__ == "__main__":
  main()
