"""How large the networks of a group are."""

from collections.abc import Iterable
from typing import Any

import jax

from okd_jax.backbones import count_multiply_adds, count_parameters
from okd_jax.core import Variables
from okd_jax.tasks import figure
from okd_jax.training.setup import Setup


def of_peers(setup: Setup, peers: Iterable[int]) -> dict[str, dict[str, int]]:
  """Parameters and multiply-adds of each peer's network alone, by its name."""
  images = setup.example_images()
  shapes = setup.peers.shapes(images)
  sizes = {}
  for peer in peers:
    net, own = _of_peer(setup, shapes, peer)
    sizes[figure.peer(peer)] = {
      "parameters": count_parameters(own["params"]),
      "multiply-adds": count_multiply_adds(net, images.shape[1:]),
    }
  return sizes


def networks(num_peers: int, kind: str, net: str) -> str:
  """A group for people: "4 replicas of resnet32", or one network's name."""
  return net if num_peers == 1 else f"{num_peers} {kind} of {net}"


def parameters(setup: Setup) -> int:
  """Number of parameters of all peers together."""
  return count_parameters(setup.peers.shapes(setup.example_images())["params"])


def text(size: dict[str, int]) -> str:
  """For people."""
  return ", ".join(f"{count:,} {what}" for what, count in size.items())


def _of_peer(
  setup: Setup, shapes: Variables, peer: int
) -> tuple[Any, Variables]:
  nets = []

  def extract(variables):
    net, taken = setup.peers.extract(variables, peer)
    nets.append(net)
    return taken

  taken = jax.eval_shape(extract, shapes)
  return nets[0], taken
