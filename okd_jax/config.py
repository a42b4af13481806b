"""Checks a configuration early: value, expectation, remedy."""

from collections.abc import Callable, Mapping
import difflib
import hashlib
import json
import math
from typing import Any

from ml_collections import ConfigDict

from okd_jax import backbones, data, methods
from okd_jax.mapping import MAPPINGS


class ConfigError(ValueError):
  """A configuration that cannot be run; the message says what to change."""


# Keys that may differ when a run is resumed: they change no result.
FREE_ON_RESUME = (
  "epochs",
  "log_steps",
  "eval_epochs",
  "checkpoint_secs",
  "eval_batch_size",
  "data.dir",
  "data.download",
  "mesh.data",
  "mesh.peer",
  "peers.mapping",
)


def _at_least(low: float) -> tuple[Callable[[Any], bool], str]:
  return lambda v: math.isfinite(v) and v >= low, f"at least {low}"


def _above(low: float) -> tuple[Callable[[Any], bool], str]:
  return lambda v: math.isfinite(v) and v > low, f"a finite number above {low}"


def _from_to(low: float, high: float) -> tuple[Callable[[Any], bool], str]:
  return lambda v: low <= v < high, f"at least {low} and below {high}"


def _one_of(*values: Any) -> tuple[Callable[[Any], bool], str]:
  return lambda v: v in values, f"one of {', '.join(map(str, values))}"


_FLAG = _one_of(True, False)
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
  "seed": _from_to(0, 2**31),
  "epochs": _at_least(1),
  "batch_size": _at_least(1),
  "eval_batch_size": _at_least(1),
  "rampup_epochs": _at_least(0),
  "rampup_per_step": _FLAG,
  "precision": _one_of("float32", "bfloat16"),
  "deterministic": _FLAG,
  "log_steps": _at_least(1),
  "eval_epochs": _at_least(1),
  "checkpoint_secs": _above(0),
  "pad_mode": _one_of("constant", "reflect"),
  "peers.kind": _one_of("replicas", "branches"),
  "peers.num_peers": _at_least(1),
  "peers.split": _at_least(0),
  "peers.dropout": _from_to(0, 1),
  "peers.mapping": _one_of(*MAPPINGS),
  "optim.learning_rate": _above(0),
  "optim.momentum": _from_to(0, 1),
  "optim.nesterov": _FLAG,
  "optim.weight_decay": _at_least(0),
  "optim.factor": _above(0),
  "mesh.data": (lambda v: v == -1 or v >= 1, "-1 or at least 1"),
  "mesh.peer": _at_least(1),
}
# Hyperparameters mean the same in every method.
_METHOD_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
  "temperature": _above(0),
  "kd_weight": _at_least(0),
  "eps": _from_to(0, 1),
  "aggregate": _one_of("logits", "probs"),
  "stop_gradient": _FLAG,
  "with_leader": _FLAG,
}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Every key with its path joined by dots, in the order of the file."""
  flat: dict[str, Any] = {}
  for key, value in config.items():
    if isinstance(value, Mapping | ConfigDict):
      flat |= flatten(value, f"{prefix}{key}.")
    else:
      flat[prefix + key] = tuple(value) if isinstance(value, list) else value
  return flat


def check(config: ConfigDict) -> None:
  """Refuses a configuration that cannot be run, before anything is built.

  Raises:
    ConfigError: naming the value, what was expected, and the remedy.
  """
  flat = flatten(config)
  rules = _RULES | {f"method.{k}": rule for k, rule in _METHOD_RULES.items()}
  for path, value in flat.items():
    if path in rules:
      accepts, expectation = rules[path]
      _require(accepts(value), path, value, expectation)
  data.check(config.data)
  drops = flat["optim.drops"]
  _require(
    all(0 < d <= 1 for d in drops) and sorted(drops) == list(drops),
    "optim.drops",
    drops,
    "rising fractions of the epochs, above 0 and at most 1",
  )
  nets = flat["peers.net"].split(",")
  for net in nets:
    if ":" not in net:
      backbones.make(net, num_classes=1)  # refuses an unknown name
  if len(nets) not in (1, flat["peers.num_peers"]):
    raise ConfigError(
      f"config.peers.net names {len(nets)} networks and "
      f"config.peers.num_peers={flat['peers.num_peers']}; name one network, or "
      "one a peer."
    )
  method = make_method(config)
  if flat["peers.num_peers"] < method.min_peers:
    raise ConfigError(
      f"config.peers.num_peers={flat['peers.num_peers']}: method "
      f"'{config.method.name}' needs at least {method.min_peers} peers; raise "
      "it."
    )
  if method.needs.mean_trunk_gradient and config.peers.kind != "branches":
    raise ConfigError(
      f"config.peers.kind='{config.peers.kind}': method "
      f"'{config.method.name}' averages gradients at the shared trunk; set "
      "config.peers.kind=branches."
    )


def make_method(config: ConfigDict) -> Any:
  """Builds the method of a configuration.

  Raises:
    ValueError: if its name or a hyperparameter is unknown.
  """
  hyperparameters = dict(config.method)
  name = hyperparameters.pop("name")
  return methods.make(name, **hyperparameters)


def closest(word: str, known: Any) -> str:
  """A suggestion for a misspelt word, or nothing."""
  close = difflib.get_close_matches(word, list(known), 1)
  return f" Did you mean '{close[0]}'?" if close else ""


def digest(config: ConfigDict) -> str:
  """A short hash of everything that changes a run's result."""
  flat = flatten(config)
  kept = {key: flat[key] for key in flat if key not in FREE_ON_RESUME}
  text = json.dumps(kept, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def require_resumable(config: ConfigDict, saved: Mapping[str, Any]) -> None:
  """Refuses to resume a run under a configuration that changes its result.

  Args:
    config: of the command.
    saved: of the run, as read from its config.json.

  Raises:
    ConfigError: listing every key that differs.
  """
  ours, theirs = flatten(config), flatten(saved)
  changed = [
    f"  config.{path}: {theirs.get(path, 'absent')!r} in the run, "
    f"{ours.get(path, 'absent')!r} in the command"
    for path in sorted(ours | theirs)
    if ours.get(path) != theirs.get(path) and path not in FREE_ON_RESUME
  ]
  if changed:
    raise ConfigError(
      "the work directory holds a run of another configuration:\n"
      + "\n".join(changed)
      + "\nChoose another --workdir, or take the changes back."
    )


def _require(ok: bool, path: str, value: Any, expectation: str) -> None:
  if not ok:
    raise ConfigError(f"config.{path}={value!r} must be {expectation}.")


def explain_flag_error(error: Exception) -> ConfigError:
  """Says in one message what is wrong with the flags of a command.

  Args:
    error: raised while the flags were read.

  Returns:
    The error to raise instead: what was wrong, and what is expected.
  """
  text = str(error)
  if isinstance(error, AttributeError | KeyError):
    # ml_collections puts a suggestion behind the key if it knows one.
    key, _, suggestion = text.strip("\"'").partition("\\n")
    key = key.strip("'")
    return ConfigError(
      f"config has no key '{key}'. {suggestion or 'See configs/common.py.'}"
    )
  if isinstance(error, OSError):
    reason = text.strip().splitlines()[-1].strip()
    return ConfigError(
      f"--config names no readable recipe: {reason}. Recipes are in configs/."
    )
  if "parsing config file" in text:
    lines = [line for line in text.splitlines() if line.strip()]
    return ConfigError(f"the recipe could not be read: {lines[-1]}")
  return ConfigError(f"{text.rstrip('.')}; see configs/common.py for the keys.")
