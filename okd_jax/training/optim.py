"""The optimiser: SGD with coupled weight decay, settings by path prefix."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
import optax

from okd_jax import rules, schedules

Array = jax.Array

_DROPS = rules.Rule(
  lambda v: all(0 < drop <= 1 for drop in v) and sorted(v) == list(v),
  "rising fractions of the epochs, above 0 and at most 1",
  (("a",), (0.5, 0.2), (0.0,), (1.5,), (None,)),
)


@dataclasses.dataclass(frozen=True)
class Sgd:
  """SGD with momentum, as in PyTorch, and a multi-step schedule by epoch.

  One update is `d = g + wd p; v = m v + d; p = p - lr (d + m v)` with Nesterov
  momentum and `p = p - lr v` without.

  Attributes:
    learning_rate: at the start.
    momentum: m in the update above.
    nesterov: look ahead by one step.
    weight_decay: wd in the update above, coupled L2 on all parameters.
    drops: where the rate drops, as fractions of the epochs.
    factor: what it is multiplied with at every drop.
  """

  learning_rate: float = rules.positive(0.1)
  momentum: float = rules.between(0.9, 0, 1)
  nesterov: bool = rules.flag(True)
  weight_decay: float = rules.at_least(5e-4, 0)
  drops: tuple[float, ...] = rules.field((0.5, 0.75), _DROPS)
  factor: float = rules.positive(0.1)

  def rate(self, epoch: Array, epochs: int) -> float | Array:
    """The learning rate in a 0-based epoch of a run of `epochs`."""
    return schedules.multistep(
      epoch,
      base=self.learning_rate,
      drops=tuple(round(fraction * epochs) for fraction in self.drops),
      factor=self.factor,
    )


def make(
  settings: Sgd, overrides: Mapping[str, Mapping[str, Any]] | None = None
) -> optax.GradientTransformationExtraArgs:
  """Builds the optimiser.

  Args:
    settings: for all parameters.
    overrides: settings to replace by path prefix, for example
      `{"method/fusion": {"weight_decay": 1e-5}}`. The first prefix that fits a
      parameter counts. `adam_rate` takes Adam with that constant rate instead
      of SGD, weight decay coupled too.

  Returns:
    A transformation whose update takes the learning rate as the keyword
    argument `learning_rate`, so that it keeps no step count of its own.
  """
  if not overrides:
    return _sgd(settings)
  groups = {"": _sgd(settings)}
  for prefix, changes in overrides.items():
    changes = dict(changes)
    rate = changes.pop("adam_rate", None)
    own = dataclasses.replace(settings, **changes)
    groups[prefix] = _sgd(own) if rate is None else _adam(own, rate)
  return optax.with_extra_args_support(
    optax.multi_transform(groups, _labels(tuple(overrides)))
  )


def _labels(prefixes: tuple[str, ...]) -> Callable[[Any], Any]:
  def label(path, _):
    name = "/".join(str(entry.key) for entry in path)
    return next((p for p in prefixes if name.startswith(p)), "")

  return lambda params: jax.tree_util.tree_map_with_path(label, params)


def _sgd(settings: Sgd) -> optax.GradientTransformationExtraArgs:
  return optax.chain(
    optax.add_decayed_weights(settings.weight_decay),
    optax.trace(settings.momentum, nesterov=settings.nesterov),
    _scale_by_rate(),
  )


def _adam(settings: Sgd, rate: float) -> optax.GradientTransformationExtraArgs:
  return optax.with_extra_args_support(
    optax.chain(
      optax.add_decayed_weights(settings.weight_decay), optax.adam(rate)
    )
  )


def _scale_by_rate() -> optax.GradientTransformationExtraArgs:
  def update(updates, state, params=None, *, learning_rate, **extra):
    del params, extra
    return jax.tree.map(lambda u: -learning_rate * u, updates), state

  return optax.GradientTransformationExtraArgs(
    lambda params: optax.EmptyState(), update
  )
