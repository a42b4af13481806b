"""List the available networks with their size and cost."""

import argparse
from typing import Any

import jax
import jax.numpy as jnp

from okd_jax import backbones
from okd_jax.cli import common
from okd_jax.groups import once
from okd_jax.runs import display


def add_arguments(command: argparse.ArgumentParser) -> None:
  """Adds the arguments of the command."""
  command.add_argument(
    "names", nargs="*", metavar="NAME", help="networks; by default all"
  )
  command.add_argument(
    "--classes",
    type=int,
    default=100,
    metavar="N",
    help="number of classes, 100 by default",
  )
  common.add_json(command)


def run(args: argparse.Namespace) -> None:
  """Runs the command.

  Raises:
    ConfigError: for an unknown name.
  """
  rows = [
    _describe(name, args.classes) for name in args.names or backbones.names()
  ]
  if args.json:
    common.print_json(rows)
    return
  display.table(
    f"Networks for config.peers.net, with {args.classes} classes",
    [
      "network",
      "parameters",
      "multiply-adds",
      "activations",
      "input",
      "shares",
    ],
    [
      (
        row["network"],
        f"{row['parameters']:,}",
        f"{row['multiply_adds']:,}",
        f"{row['activations']:,}",
        "x".join(map(str, row["input"])),
        f"{row['split']} of {row['stages']} stages",
      )
      for row in rows
    ],
  )
  print(
    "What branches share is the stem and the first stages; config.peers.split "
    "changes how many."
  )


def _describe(name: str, num_classes: int) -> dict[str, Any]:
  net = backbones.make(name, num_classes)
  image = jax.ShapeDtypeStruct((1, *net.image_shape), jnp.float32)
  shapes = once.shapes(net, image)[1]
  return {
    "network": name,
    "parameters": backbones.count_parameters(shapes["params"]),
    "multiply_adds": backbones.count_multiply_adds(net, net.image_shape),
    "activations": backbones.count_activations(net, net.image_shape),
    "input": net.image_shape,
    "split": net.split,
    "stages": net.num_stages,
  }
