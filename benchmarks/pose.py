"""OKDHP's training step beside the same step in PyTorch.

    python -m benchmarks.pose --nets=3 --width=32 --depth=3 --size=64

Whole hourglasses that share nothing, on given images and heat maps; both sides
are of one process and take turns, and ratios are taken within a turn. The two
are the same to 1e-6 over ten steps (tests/training/test_parity_okdhp.py).
Needs requirements-bench.txt.
"""

import argparse
from collections.abc import Callable
import os
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import setting, torch_okdhp, torch_systems
from okd_jax import core, groups, methods
from okd_jax.backbones.hourglass import Hourglass
from okd_jax.data.info import DataInfo
from okd_jax.data.keypoints.info import KeypointInfo
from okd_jax.devices.mesh import make_mesh
from okd_jax.tasks.keypoints import Task
from okd_jax.training.optim import Optim
from okd_jax.training.setup import Setup, with_optim

# Pixels of an image for one of a heat map.
STRIDE = 4
# With 0.1 the two sides differ by 1e-16 at first and by 2e-8 after ten steps.
RATE = 0.01


class Given(Setup):
  """Batches are taken as they are."""

  def augment(self, batch, key):
    return batch


def recipe(
  net: Hourglass,
  nets: int,
  *,
  size: int,
  batch: int,
  dtype: Any = jnp.float32,
  **options: Any,
) -> Given:
  """OKDHP of whole networks, for images of `size` pixels.

  Args:
    net: one of them.
    nets: how many.
    size: height and width of the images.
    batch: images a step.
    dtype: of the images.
    **options: of the method.
  """
  info = DataInfo(
    name="figures",
    num_classes=net.num_classes,
    image_shape=(size, size, 3),
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
    pad=0,
    flip=False,
    num_train=5 * batch,
    num_test=1,
    class_names=tuple(f"joint{i}" for i in range(net.num_classes)),
    task="keypoints",
    keypoints=KeypointInfo(pairs=(), bones=(), sigmas=()),
  )
  made = with_optim(
    Optim(learning_rate=RATE),
    peers=groups.replicas(net, nets, make_mesh(1, 1)),
    method=methods.make("okdhp", **options),
    task=Task.of(info, image_dtype=dtype),
    epochs=4,
    batch_size=batch,
    train_size=5 * batch,
    rampup_epochs=2,
    num_positions=5 * batch,
  )
  return Given(**vars(made))


def random_batch(setup: Setup, rng: np.random.Generator) -> core.Batch:
  """Images, heat maps, and joints of which some are missing, on the host."""
  count, info = setup.batch_size, setup.task.info
  maps = (count, *(n // STRIDE for n in info.image_shape[:2]), info.num_classes)
  target = {
    "maps": rng.random(maps),
    "weight": rng.integers(0, 2, maps[::3]).astype(float),
  }
  image = rng.normal(size=(count, *info.image_shape))
  return core.Batch(image, target, np.arange(count), np.ones(count, bool))


def ours(setup: Setup, batch: core.Batch) -> Callable[[], None]:
  """Makes a step of ours and waits for it."""
  step, (state, _, key) = setting.step_and_arguments(setup)
  given = jax.device_put(jax.tree.map(as_float32, batch))

  def run() -> None:
    nonlocal state
    state, measured = step(state, given, key)
    jax.block_until_ready((state, measured))

  return run


def theirs(
  args: argparse.Namespace, batch: core.Batch, layout: torch.memory_format
) -> Callable[[], None]:
  """Makes a step of PyTorch."""
  torch.manual_seed(0)
  joints = batch.target["weight"].shape[1]
  model = torch_okdhp.OKDHP(
    args.nets, joints, args.width, args.depth, args.stacks
  ).to(memory_format=layout)
  optimizer = torch_systems.optimizer(model, RATE)
  image = torch.tensor(np.moveaxis(as_float32(batch.image), -1, 1).copy())
  given = (
    image.contiguous(memory_format=layout),
    *(torch.tensor(as_float32(leaf)) for leaf in batch.target.values()),
  )

  def run() -> None:
    optimizer.zero_grad(set_to_none=True)
    model(*given, 1.0, True).backward()
    optimizer.step()

  return run


def as_float32(leaf: np.ndarray) -> np.ndarray:
  return leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf


def seconds(run: Callable[[], None], steps: int) -> float:
  """A step's seconds, mean of `steps`."""
  began = time.monotonic()
  for _ in range(steps):
    run()
  return (time.monotonic() - began) / steps


def main(argv: list[str]) -> None:
  parser = argparse.ArgumentParser(prog="python -m benchmarks.pose")
  parser.add_argument("--nets", type=int, default=3)
  parser.add_argument("--stacks", type=int, default=2)
  parser.add_argument("--width", type=int, default=32)
  parser.add_argument("--depth", type=int, default=3)
  parser.add_argument("--size", type=int, default=64)
  parser.add_argument("--joints", type=int, default=16)
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--rounds", type=int, default=9)
  parser.add_argument("--steps", type=int, default=3, help="of one turn")
  args = parser.parse_args(argv)
  net = Hourglass(
    args.joints,
    stacks=args.stacks,
    split=0,
    width=args.width,
    depth=args.depth,
  )
  setup = recipe(net, args.nets, size=args.size, batch=args.batch)
  batch = random_batch(setup, np.random.default_rng(0))
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  sides = {
    "okd_jax": ours(setup, batch),
    "torch": theirs(args, batch, torch.contiguous_format),
    "torch channels-last": theirs(args, batch, torch.channels_last),
  }
  for run in sides.values():
    seconds(run, 2)
  turns = [
    {name: seconds(run, args.steps) for name, run in sides.items()}
    for _ in range(args.rounds)
  ]
  print(" ".join(f"{name}={value}" for name, value in vars(args).items()))
  print(
    f"{jax.devices()[0].device_kind}, load {os.getloadavg()[0]:.1f} of "
    f"{os.cpu_count()} cores; medians of {args.rounds} turns"
  )
  for name in sides:
    each = statistics.median(turn[name] for turn in turns)
    ratio = statistics.median(turn[name] / turn["okd_jax"] for turn in turns)
    print(f"{name:20} {1e3 * each:8.0f} ms a step, {ratio:.2f} of ours")


if __name__ == "__main__":
  main(sys.argv[1:])
