"""A training step with each augmentation, beside the papers' crop and mirror.

    python -m benchmarks.augment --net=resnet20 --peers=4 --batch=64

All steps are of one process and take turns, and ratios are taken within a
turn, so that a change of the machine's load meets all of them.
"""

import argparse
import dataclasses
import functools
import os
import statistics
import sys
import time

import jax

from benchmarks import setting
from okd_jax.data.augmentation import Augment
from okd_jax.training.setup import Setup

AUGMENTATIONS = {
  "pad, crop, mirror": Augment(),
  "mirror alone": Augment(crop=False),
  "RandAugment": Augment(policy="rand_augment"),
  "TrivialAugment": Augment(policy="trivial_augment"),
  "colour jitter": Augment(jitter=(0.4, 0.4, 0.4, 0.1)),
  "random erasing": Augment(erase=0.25),
  "cutout": Augment(cutout=16),
  "mixup": Augment(mixup=0.2),
  "CutMix": Augment(cutmix=1.0),
}


class Measured:
  """A step of a setup, and its augmentation alone."""

  def __init__(self, setup: Setup):
    self._step, (self._state, *self._rest) = setting.step_and_arguments(setup)
    self._augment = jax.jit(setup.augment)
    self.step()
    self.augment()

  def step(self) -> float:
    """Seconds of one step."""
    began = time.monotonic()
    self._state, measured = self._step(self._state, *self._rest)
    jax.block_until_ready((self._state, measured))
    return time.monotonic() - began

  def augment(self) -> float:
    """Seconds of the augmentation of one batch."""
    began = time.monotonic()
    jax.block_until_ready(self._augment(*self._rest))
    return time.monotonic() - began


def main(argv: list[str]) -> None:
  parser = argparse.ArgumentParser(prog="python -m benchmarks.augment")
  parser.add_argument("--net", default="resnet20")
  parser.add_argument("--peers", type=int, default=4)
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--rounds", type=int, default=15)
  args = parser.parse_args(argv)
  plain = setting.recipe("okddip", args.net, "replicas", args.peers, args.batch)
  measured = {
    name: Measured(
      dataclasses.replace(
        plain, task=dataclasses.replace(plain.task, augmentation=how)
      )
    )
    for name, how in AUGMENTATIONS.items()
  }
  found = [
    {name: (each.step(), each.augment()) for name, each in measured.items()}
    for _ in range(args.rounds)
  ]
  first = next(iter(AUGMENTATIONS))
  print(
    f"{args.peers} {args.net} replicas, okddip, batch {args.batch}, "
    f"{jax.devices()[0].device_kind}, load {os.getloadavg()[0]:.1f} of "
    f"{os.cpu_count()} cores; medians of {args.rounds} turns\n"
  )
  print("| augmentation | ms a step | step, crop = 1 | ms alone |")
  print("|---|---|---|---|")
  for name in AUGMENTATIONS:
    of = functools.partial(median_of, found, name)
    step = of(lambda turn, name: 1e3 * turn[name][0])
    ratio = of(lambda turn, name: turn[name][0] / turn[first][0])
    alone = of(lambda turn, name: 1e3 * turn[name][1])
    print(f"| {name} | {step:.0f} | {ratio:.2f} | {alone:.1f} |")


def median_of(found, name, figure) -> float:
  return statistics.median(figure(turn, name) for turn in found)


if __name__ == "__main__":
  main(sys.argv[1:])
