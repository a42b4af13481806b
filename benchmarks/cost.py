"""What recipes cost: images and multiply-adds, traced and never run.

    python -m benchmarks.cost configs/okddip_c100.py configs/oem_c100.py

Counts the convolutions and the products of matrices in the program of a
training step: all peers, forward and backward, and what the method adds. A
multiply-add is two floating-point operations. `vs one` is relative to a single
network of that recipe, trained by `independent`.
"""

import argparse
import functools
import json

import jax
import numpy as np

from benchmarks import setting
from okd_jax import backbones, groups
from okd_jax.data.info import KNOWN
from okd_jax.devices.mesh import make_mesh, without_peer_axis
from okd_jax.settings import build, config as config_lib, flags, freeze
from okd_jax.settings.schema import RunConfig
from okd_jax.training import state as state_lib, step as steps
from okd_jax.training.setup import initial_key, Setup

_COLUMNS = ("recipe", "images", "GFLOP an image", "PFLOP", "vs one")


def cost(config: RunConfig, teacher_net: str = "") -> dict[str, float]:
  """What a recipe costs.

  Args:
    config: of a run on a data set of `okd_jax.data.info.KNOWN`.
    teacher_net: network of the frozen teacher; the first peer's by default.

  Returns:
    `images` that are trained on, `gflop_image` for each of them, `pflop` in
    all, and `vs_one`, the cost relative to one network alone.
  """
  made = _setup(config, teacher_net or config.peers.net.split(",")[0])
  alone = freeze.replace(
    config,
    {
      "method": freeze.method_section("independent"),
      "peers.num_peers": 1,
      "peers.kind": "replicas",
      "peers.net": config.peers.net.split(",")[0],
    },
  )
  images = made.total_steps * made.batch_size
  flop = 2.0 * _multiply_adds(made) / made.batch_size
  one = _setup(alone, "")
  return {
    "images": images,
    "gflop_image": flop / 1e9,
    "pflop": flop * images / 1e15,
    "vs_one": flop / (2.0 * _multiply_adds(one) / one.batch_size),
  }


def _setup(config: RunConfig, teacher_net: str) -> Setup:
  info, on = KNOWN[config.data.name], make_mesh(1, 1)
  needs = config_lib.make_method(config).needs
  frozen = None
  if needs.teacher:
    maps = {"raw_maps": True} if needs.raw_maps else {}
    net = backbones.make(teacher_net, info.num_classes, **maps)
    frozen = groups.replicas(net, 1, without_peer_axis(on))
  seen = round(info.num_train * (1 - needs.held_out))
  return build.setup(config, info, seen, on, frozen)


def _multiply_adds(made: Setup) -> int:
  """Of one step on a batch."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  state = state_lib.abstract(made, initial_key(0))
  batch = setting.random_batch(made.batch_size, made.task.info)
  variables = labels = None
  if made.teacher is not None:
    variables = jax.eval_shape(made.teacher.init, key, made.example_images())
  if made.method.needs.train_labels:
    labels = jax.ShapeDtypeStruct((made.num_examples,), np.int32)
  step = functools.partial(steps.train_step, made)
  traced = jax.make_jaxpr(step)(state, batch, key, variables, labels)
  return backbones.multiply_adds_of(traced)


def main(argv: list[str] | None = None) -> None:
  """Prints a table, a line a recipe."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("recipes", nargs="+", help="configs/METHOD_DATA.py[:...]")
  parser.add_argument("--teacher-net", default="", help="of frozen teachers")
  parser.add_argument("--json", help="file to write figures to")
  options = parser.parse_args(argv)
  found = {}
  print(f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}")
  for name in options.recipes:
    recipe = flags.read(["", f"--config={name}"])[0]
    if "base" in recipe:  # a comparison, whose recipes have lines of their own
      continue
    figures = cost(freeze.freeze(recipe), options.teacher_net)
    found[name] = figures
    print(
      f"| {name} | {figures['images']:,} | {figures['gflop_image']:.3f} | "
      f"{figures['pflop']:.1f} | {figures['vs_one']:.2f} |",
      flush=True,
    )
  if options.json:
    with open(options.json, "w") as file:
      json.dump(found, file, indent=2)


if __name__ == "__main__":
  main()
