"""Networks by name.

Each module of this package holds one family. In it, every network is a
`functools.partial` under the network's name; it fixes the architecture and
leaves the options open. `make` finds networks by searching for such partials,
so there is no table to edit.

The name of a compressed network ends with the fraction of the channels that it
keeps after the split: `resnet32@4/5`.

Sorting the names of submodules naturally, with "stem" first and "head" last,
gives the order in which they run; in an hourglass, the order in which public
PyTorch code declares them. `okd_jax.weights.torch` relies on this.
"""

import dataclasses
from fractions import Fraction
import functools
import importlib
import pkgutil
from typing import Any

from okd_jax.backbones.count import (
  count_activations as count_activations,
  count_multiply_adds as count_multiply_adds,
  count_parameters as count_parameters,
  multiply_adds_of as multiply_adds_of,
)
from okd_jax.backbones.network import Network
from okd_jax.errors import closest, ConfigError


def names() -> tuple[str, ...]:
  """Sorted names of the networks that `make` builds."""
  return tuple(sorted(_networks()))


def make(name: str, num_classes: int, **options: Any) -> Network:
  """Builds a network.

  Args:
    name: one of `names()`, optionally followed by "@" and a fraction, which
      sets the option `tail_width`.
    num_classes: number C of classes; for an hourglass, number J of joints.
    **options: fields of the network's class that its name does not fix:
      `split`, `part`, `dtype` and `raw_maps` (see `Network`), and those of the
      family, for example `dropout` of VGG or `tail_width` of ResNet and
      DenseNet.

  Returns:
    The network, a linen module.

  Raises:
    ConfigError: if the name or an option is unknown or a value is not allowed.
  """
  networks = _networks()
  name, at, fraction = name.partition("@")
  if at:
    if "tail_width" in options:
      raise ConfigError(
        f"tail_width={options['tail_width']} must be left out where the name, "
        f"'{name}@{fraction}', has it; give one of the two."
      )
    options["tail_width"] = _fraction(name, fraction)
  if name not in networks:
    raise ConfigError(
      f"network {name!r} is unknown{closest(name, networks)} Available: "
      f"{', '.join(sorted(networks))}."
    )
  network = networks[name]
  allowed = _options(network)
  if at and "tail_width" not in allowed:
    narrowed = [
      n for n in sorted(networks) if "tail_width" in _options(networks[n])
    ]
    raise ConfigError(
      f"network '{name}' cannot be made narrower, as '{name}@{fraction}' asks; "
      f"those that can are {', '.join(narrowed)}. Choose one of them."
    )
  for option in options:
    if option not in allowed:
      raise ConfigError(
        f"network '{name}' has no option {option!r}"
        f"{closest(option, allowed)} Options: {', '.join(sorted(allowed))}."
      )
  if num_classes < 1:
    raise ConfigError(f"num_classes={num_classes} must be at least 1.")
  net = network(num_classes, **options)
  net.check()
  return net


def students(
  name: str, num_classes: int, count: int, **options: Any
) -> tuple[Network, ...]:
  """Builds networks of decreasing width for one common trunk.

  Network j = 0, ..., count - 1 keeps (count - j) / count of the channels after
  the split. The first one is the uncompressed network.

  Args:
    name: name of a network that has the option `tail_width`.
    num_classes: number C of classes.
    count: number of networks.
    **options: as for `make`.

  Raises:
    ConfigError: as for `make`.
  """
  return tuple(
    make(student, num_classes, **options)
    for student in student_names(name, count)
  )


def student_names(name: str, count: int) -> tuple[str, ...]:
  """Names of the networks that `students` builds."""
  narrow = (f"{name}@{count - j}/{count}" for j in range(1, count))
  return (name, *narrow)


def _fraction(name: str, text: str) -> Fraction:
  try:
    return Fraction(text)
  except (ValueError, ZeroDivisionError):
    raise ConfigError(
      f"network '{name}@{text}' must end in a fraction such as {name}@4/5."
    ) from None


def _networks() -> dict[str, functools.partial[Network]]:
  modules = (
    importlib.import_module(f"{__name__}.{module.name}")
    for module in pkgutil.iter_modules(__path__)
  )
  return {
    name: value
    for module in modules
    for name, value in vars(module).items()
    if not name.startswith("_")
    and isinstance(value, functools.partial)
    and isinstance(value.func, type)
    and issubclass(value.func, Network)
  }


def _options(network: functools.partial[Network]) -> set[str]:
  family: Any = network.func
  fields = {field.name for field in dataclasses.fields(family)}
  fixed = {"num_classes", "parent", "name", *network.keywords}
  return fields - fixed
