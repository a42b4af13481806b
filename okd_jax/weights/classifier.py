"""Finds the arrays of a network that its number of classes decides."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from okd_jax.core import Variables
from okd_jax.errors import ConfigError
from okd_jax.groups import once
from okd_jax.training.setup import Setup
from okd_jax.weights import exported


def names(setup: Setup, net: nn.Module, own: Mapping[str, Any]) -> set[str]:
  """Names of the arrays of the classifier.

  Args:
    setup: setup of a run with the network.
    net: the network.
    own: its arrays by path, as from `exported.flatten`; only shapes matter.

  Raises:
    ConfigError: if the classifier cannot be told.
  """
  count = setup.task.out_shape()[-1]
  larger = of_classes(net, count + 1)
  if larger is net:  # without such a field: the one layer with C outputs
    layers = {
      name.rpartition("/")[0]
      for name, value in own.items()
      if value.ndim > 1 and value.shape[-1] == count
    }
    found = {name for name in own if name.rpartition("/")[0] in layers}
    clear = len(layers) == 1
  else:
    other = exported.flatten(shapes(setup, larger))
    found = {
      name
      for name, value in own.items()
      if name not in other or other[name].shape != value.shape
    }
    clear = bool(found)
  if not clear:
    raise ConfigError(
      f"config.init_from: the classifier of {type(net).__name__} cannot be "
      f"told ({sorted(found) or 'nothing'} may be it), to be drawn anew; give "
      "the network a field `num_classes` that its classifier depends on."
    )
  return found


def of_classes(net: nn.Module, count: int) -> nn.Module:
  """The same network with `count` classes, if it has the field."""
  if getattr(net, "num_classes", count) == count:
    return net
  return net.clone(num_classes=count)


def shapes(setup: Setup, net: nn.Module) -> Variables:
  """The variables of a network, without their values."""
  return once.shapes(net, setup.example_images())[1]
