"""The optimisers: those of optax, with settings by path prefix."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import optax
from optax import contrib

from okd_jax import outside, rules, trees
from okd_jax.errors import closest, ConfigError

NAMES = ("sgd", "adam", "adamw", "lamb", "lion", "muon")
# The values of beta2 and epsilon where the settings leave them at 0.
_BETA2 = {"lion": 0.99}
_EPSILON = {"lamb": 1e-6}
# With it Muon's steps are as long as Adam's, so that one rate suits both (Liu
# et al., https://arxiv.org/abs/2502.16982, section 2.2).
_MUON_LENGTH = 0.2

_NAME = rules.Rule(
  lambda v: v in NAMES or (0 < v.find(":") < len(v) - 1),
  f"one of {', '.join(NAMES)}, or module:function, such as optax:adabelief",
  ("", "zzz", ":adam", "optax:"),
)
_DROPS = rules.Rule(
  lambda v: all(0 < drop <= 1 for drop in v) and sorted(v) == list(v),
  "rising fractions of the epochs, above 0 and at most 1",
  (("a",), (0.5, 0.2), (0.0,), (1.5,), (None,)),
)


@dataclasses.dataclass(frozen=True)
class Optim:
  """The optimiser.

  With g the gradient, d the direction of Adam, LAMB, Lion or Muon, and wd the
  weight decay, an update of p is

  - sgd: `u = g + wd p; v = momentum v + u; p = p - lr (u + momentum v)` with
    Nesterov momentum and `p = p - lr v` without, as in PyTorch;
  - adam: `p = p - lr d(g + wd p)`;
  - adamw, lion, muon: `p = p - lr (d(g) + wd p)`;
  - lamb: `p = p - lr r (d(g) + wd p)`, with the ratio of norms r for every
    array of every peer.

  Attributes:
    learning_rate: the full learning rate, which config.schedule changes over
      time. Rates for sgd are far too high for the others.
    momentum: momentum of sgd and muon.
    nesterov: whether sgd and muon use Nesterov momentum.
    weight_decay: weight decay, added to the gradient by sgd and adam, and
      decoupled from it by adamw, lamb, lion and muon.
    drops: when config.schedule.name=multistep lowers the learning rate, as
      fractions of the epochs.
    factor: what the learning rate is multiplied by at every drop.
    name: the optimiser, or module:function. The function is called with
      learning_rate=1.0 and returns a transformation of optax that contains its
      other settings; its updates are multiplied by the learning rate.
    beta1: decay of the first moment, for all but sgd.
    beta2: decay of the second moment; 0 is 0.99 for lion and 0.999 for others.
    epsilon: constant in the denominator of adam, adamw, lamb and muon; 0 is
      1e-6 for lamb and 1e-8 for others.
    decay_norms: whether weight decay also applies to biases and normalisation
      layers.
    clip_norm: largest norm of the gradient of the whole group; a longer
      gradient is scaled down to it. 0 does not clip.
  """

  learning_rate: float = rules.positive(0.1)
  momentum: float = rules.between(0.9, 0, 1)
  nesterov: bool = rules.flag(True)
  weight_decay: float = rules.at_least(5e-4, 0)
  drops: tuple[float, ...] = rules.field((0.5, 0.75), _DROPS)
  factor: float = rules.positive(0.1)
  name: str = rules.field("sgd", _NAME, added=True)
  beta1: float = rules.between(0.9, 0, 1, added=True)
  beta2: float = rules.between(0.0, 0, 1, added=True)
  epsilon: float = rules.at_least(0.0, 0, added=True)
  decay_norms: bool = rules.flag(True, added=True)
  clip_norm: float = rules.at_least(0.0, 0, added=True)


def make(
  settings: Optim,
  overrides: Mapping[str, Mapping[str, Any]] | None = None,
  shared: Sequence[str] = ("",),
) -> optax.GradientTransformationExtraArgs:
  """Builds the optimiser.

  Args:
    settings: settings for all parameters.
    overrides: settings to replace for parameters by path prefix, for example
      `{"method/fusion": {"weight_decay": 1e-5}}`. The first prefix that fits a
      parameter counts. `adam_rate` uses Adam with that constant rate instead,
      with weight decay added to the gradient.
    shared: path prefixes of the parameters without a first axis of peers. An
      optimiser that looks at whole arrays treats those of each peer separately.

  Returns:
    A transformation whose update takes the learning rate as the keyword
    argument `learning_rate`, so that the schedule keeps no count of steps.

  Raises:
    ConfigError: if a setting breaks its rule, such as an unknown name of an
      optimiser, or is unknown; from `init`, if a prefix fits no parameter.
  """
  rules.check(settings, "config.optim")
  if overrides:
    groups = {"": _one(settings, shared)}
    for prefix, changes in overrides.items():
      changes = dict(changes)
      rate = changes.pop("adam_rate", None)
      own = _changed(settings, prefix, changes)
      groups[prefix] = _one(own, shared) if rate is None else _adam(own, rate)
    made = optax.multi_transform(groups, _labels(tuple(overrides)))
  else:
    made = _one(settings, shared)
  if settings.clip_norm:
    made = optax.chain(optax.clip_by_global_norm(settings.clip_norm), made)
  return optax.with_extra_args_support(made)


def _one(
  settings: Optim, shared: Sequence[str]
) -> optax.GradientTransformationExtraArgs:
  """The optimiser of parameters that have the same settings."""
  coupled, apart = (_decay(settings, sign) for sign in (1, -1))
  moments = {
    "b1": settings.beta1,
    "b2": settings.beta2 or _BETA2.get(settings.name, 0.999),
  }
  epsilon = settings.epsilon or _EPSILON.get(settings.name, 1e-8)
  if settings.name == "sgd":
    trace = optax.trace(settings.momentum, nesterov=settings.nesterov)
    return optax.chain(coupled, trace, _times_rate(-1))
  # Those below are made with a rate of 1, which contains the sign.
  if settings.name == "lion":
    return optax.chain(
      optax.lion(1.0, **moments, weight_decay=0.0), apart, _times_rate()
    )
  if settings.name == "muon":
    muon = contrib.muon(
      1.0,
      beta=settings.momentum,
      nesterov=settings.nesterov,
      eps=epsilon,
      adam_b1=settings.beta1,
      adam_b2=moments["b2"],
      consistent_rms=_MUON_LENGTH,
      muon_weight_dimension_numbers=_matrices(shared),
    )
    return optax.chain(muon, apart, _times_rate())
  if ":" in settings.name:
    return optax.chain(_outside(settings.name), _times_rate())
  adam = optax.adam(1.0, **moments, eps=epsilon)
  if settings.name == "adam":
    return optax.chain(coupled, adam, _times_rate())
  if settings.name == "adamw":
    return optax.chain(adam, apart, _times_rate())
  return optax.chain(adam, apart, _trust_ratio(shared), _times_rate())


def _adam(
  settings: Optim, rate: float
) -> optax.GradientTransformationExtraArgs:
  return optax.with_extra_args_support(
    optax.chain(_decay(settings), optax.adam(rate))
  )


def _decay(settings: Optim, sign: int = 1) -> optax.GradientTransformation:
  return optax.add_decayed_weights(
    sign * settings.weight_decay, None if settings.decay_norms else _no_norms
  )


def _outside(name: str) -> Any:
  function = outside.find("config.optim.name", name, "function")
  try:
    made = function(learning_rate=1.0)
  except TypeError as error:
    raise ConfigError(
      f"config.optim.name='{name}' must be a function that takes learning_rate "
      f"alone ({error}); write such a function."
    ) from error
  if not isinstance(made, optax.GradientTransformation):
    raise ConfigError(
      f"config.optim.name='{name}' made a {type(made).__name__}; let the "
      "function return an optax.GradientTransformation."
    )
  return made


def _times_rate(sign: int = 1) -> optax.GradientTransformationExtraArgs:
  def update(updates, state, params=None, *, learning_rate, **extra):
    del params, extra
    rate = sign * learning_rate
    return jax.tree.map(lambda u: rate * u, updates), state

  return optax.GradientTransformationExtraArgs(
    lambda params: optax.EmptyState(), update
  )


def _trust_ratio(shared: Sequence[str]) -> optax.GradientTransformation:
  """The trust ratio of LAMB, for the array of every peer by itself."""
  whole = optax.scale_by_trust_ratio()

  def update(updates, state, params=None):
    def scale(update, param):
      return whole.update(update, state, param)[0]

    def one(path, update, param):
      alone = trees.name(path).startswith(tuple(shared))
      return (scale if alone else jax.vmap(scale))(update, param)

    return jax.tree_util.tree_map_with_path(one, updates, params), state

  return optax.GradientTransformation(whole.init, update)


def _matrices(shared: Sequence[str]) -> Callable[[Any], Any]:
  """Which axes of a kernel Muon takes as rows and columns of a matrix."""

  def one(path, leaf):
    name = trees.name(path)
    first = 0 if name.startswith(tuple(shared)) else 1
    if not name.endswith("kernel") or leaf.ndim - first < 2:
      return None
    last = leaf.ndim - 1
    return contrib.MuonDimensionNumbers(tuple(range(first, last)), last)

  return lambda params: jax.tree_util.tree_map_with_path(one, params)


def _no_norms(params: Any) -> Any:
  """False for biases and for the parameters of normalisation layers."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: trees.name(path).split("/")[-1] not in ("bias", "scale"),
    params,
  )


def _changed(settings: Optim, prefix: str, changes: dict[str, Any]) -> Optim:
  known = [field.name for field in dataclasses.fields(settings)]
  for name in changes:
    if name not in known:
      raise ConfigError(
        f"optimizer_overrides['{prefix}'] has the unknown setting '{name}'"
        f"{closest(name, known)} Settings: adam_rate, {', '.join(known)}."
      )
  own = dataclasses.replace(settings, **changes)
  rules.check(own, f"optimizer_overrides['{prefix}']")
  return own


def _labels(prefixes: tuple[str, ...]) -> Callable[[Any], Any]:
  def label(path, _):
    return next((p for p in prefixes if trees.name(path).startswith(p)), "")

  def labels(params):
    found = jax.tree_util.tree_map_with_path(label, params)
    used = set(jax.tree.leaves(found))
    for prefix in (each for each in prefixes if each not in used):
      leaves = trees.named(params)
      names = sorted({"/".join(name.split("/")[:2]) for name, _ in leaves})
      raise ConfigError(
        f"optimizer_overrides['{prefix}'] fits no parameter, or only those of "
        f"an earlier prefix; there are {', '.join(names):.300}."
      )
    return found

  return labels
