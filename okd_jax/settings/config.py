"""Checks a configuration early: value, expectation, remedy."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import difflib
import hashlib
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from okd_jax import backbones, data, methods
from okd_jax.errors import ConfigError
from okd_jax.groups.map_peers import MAPPINGS


@contextlib.contextmanager
def refusing() -> Iterator[None]:
  """Marks where parts are built: what they refuse, the configuration asked.

  Yields:
    None.

  Raises:
    ConfigError: in place of any ValueError.
  """
  try:
    yield
  except ConfigError:
    raise
  except ValueError as error:
    raise ConfigError(str(error)) from error


# Keys that may differ when a run is resumed: they change no result.
FREE_ON_RESUME = (
  "num_seeds",
  "seeds_mapping",
  "epochs",
  "log_steps",
  "eval_epochs",
  "checkpoint_secs",
  "trackers",
  "eval_batch_size",
  "data.dir",
  "data.download",
  "data.exif",  # a run keeps its own, see okd_jax.runs.workdir.as_begun
  "mesh.data",
  "mesh.peer",
  "peers.mapping",
)

# Settings that earlier releases lack, and what their runs did.
_ADDED = {"data.flip": True}

# Beyond these float32 has no finite number, or only zero.
_LARGEST, _SMALLEST = 3.4e38, 1.2e-38
# Above it the device's integers end.
_MOST = 2**31
# A group of so many is a mistake; to find out otherwise would take hours.
_MOST_PEERS = 1024
_MOST_SEEDS = 1024


def _at_least(low: float) -> tuple[Callable[[Any], bool], str]:
  return lambda v: low <= v <= _LARGEST, f"a finite number of at least {low}"


def _positive() -> tuple[Callable[[Any], bool], str]:
  return (
    lambda v: _SMALLEST <= v <= _LARGEST,
    "a finite number above 0 in float32",
  )


def _from_to(low: float, high: float) -> tuple[Callable[[Any], bool], str]:
  return lambda v: low <= v < high, f"at least {low} and below {high}"


def _one_of(*values: Any) -> tuple[Callable[[Any], bool], str]:
  return lambda v: v in values, f"one of {', '.join(map(str, values))}"


def _each(
  accepts: Callable[[Any], bool], expectation: str
) -> tuple[Callable[[Any], bool], str]:
  return (
    lambda v: all(accepts(entry) for entry in v),
    f"empty, or numbers, each of them {expectation}",
  )


_FLAG = _one_of(True, False)
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
  "seed": _from_to(0, _MOST),
  "num_seeds": _from_to(1, _MOST_SEEDS + 1),
  "seeds_mapping": _one_of("auto", "one_by_one", "at_once"),
  "epochs": _from_to(1, _MOST),
  "batch_size": _from_to(1, _MOST),
  "eval_batch_size": _from_to(1, _MOST),
  "rampup_epochs": _from_to(0, _MOST),
  "rampup_per_step": _FLAG,
  "precision": _one_of("float32", "bfloat16"),
  "deterministic": _FLAG,
  "log_steps": _from_to(1, _MOST),
  "eval_epochs": _from_to(1, _MOST),
  "checkpoint_secs": _positive(),
  "trackers": (
    lambda v: set(v) <= {"wandb", "mlflow"},
    "some of ('wandb', 'mlflow'), or ()",
  ),
  "image_mean": _each(lambda v: abs(v) <= _LARGEST, "finite"),
  "image_std": _each(*_positive()),
  "pad_mode": _one_of("constant", "reflect"),
  "peers.kind": _one_of("replicas", "branches"),
  "peers.num_peers": _from_to(1, _MOST_PEERS + 1),
  "peers.split": _at_least(0),
  "peers.dropout": _from_to(0, 1),
  "peers.mapping": _one_of(*MAPPINGS),
  "optim.learning_rate": _positive(),
  "optim.momentum": _from_to(0, 1),
  "optim.nesterov": _FLAG,
  "optim.weight_decay": _at_least(0),
  "optim.drops": (
    lambda v: all(0 < d <= 1 for d in v) and sorted(v) == list(v),
    "rising fractions of the epochs, above 0 and at most 1",
  ),
  "optim.factor": _positive(),
  "mesh.data": (lambda v: v == -1 or v >= 1, "-1 or at least 1"),
  "mesh.peer": (lambda v: v == -1 or v >= 1, "-1 or at least 1"),
}
# Hyperparameters mean the same in every method.
_METHOD_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
  "temperature": _positive(),
  "kd_weight": _at_least(0),
  "eps": _from_to(0, 1),
  "aggregate": _one_of("logits", "probs"),
  "stop_gradient": _FLAG,
  "with_leader": _FLAG,
  "form": _one_of("ensemble", "pairwise"),
  "updates": _one_of("simultaneous", "alternating"),
  "rule": _one_of("naive", "linear", "minlogit", "general"),
  "views": _FLAG,
  "ema_decay": _from_to(0, 1),
  "fusion_weight_decay": _at_least(0),
  "diversity_weight": _at_least(0),
  "self_weight": _at_least(0),
  "fusion_weight": _at_least(0),
  "map_rampup_epochs": _at_least(0),
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
    _require(
      value is not None, path, value, "set; leave it out for its default"
    )
    if path in rules:
      accepts, expectation = rules[path]
      _require(_holds(accepts, value), path, value, expectation)
  data.check(config.data)
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
  kind = method.needs.kind
  if kind and config.peers.kind != kind:
    raise ConfigError(
      f"config.peers.kind='{config.peers.kind}': method "
      f"'{config.method.name}' with these settings needs {kind}; set "
      f"config.peers.kind={kind}."
    )
  _check_teacher(config, method.needs.teacher)


def _check_teacher(config: ConfigDict, needed: bool) -> None:
  if not needed:
    if config.teacher or config.teacher_net:
      raise ConfigError(
        f"config.teacher='{config.teacher}' and config.teacher_net="
        f"'{config.teacher_net}': method '{config.method.name}' has no "
        "teacher; leave both empty."
      )
    return
  if not config.teacher:
    raise ConfigError(
      f"config.teacher='': method '{config.method.name}' needs a trained "
      "teacher; set it to the work directory of a run, or to a .safetensors "
      "or .pth file and config.teacher_net to its network."
    )
  path = Path(config.teacher)
  _require(path.exists(), "teacher", config.teacher, "an existing path")
  if path.is_file():
    _require(
      path.suffix in (".safetensors", ".pth", ".pt"),
      "teacher",
      config.teacher,
      "a work directory or a file that ends in .safetensors, .pth or .pt",
    )
    _require(
      bool(config.teacher_net),
      "teacher_net",
      config.teacher_net,
      "the network that the file belongs to, a name of okd_jax.backbones",
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
  kept = {
    key: value
    for key, value in flat.items()
    # Runs of earlier releases keep their hash.
    if key not in FREE_ON_RESUME and _ADDED.get(key) != value
  }
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
  ours, theirs = flatten(config), _ADDED | flatten(saved)
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


def _holds(accepts: Callable[[Any], bool], value: Any) -> bool:
  try:
    return accepts(value)
  except TypeError:  # of another type than what it is compared with
    return False


def _require(ok: bool, path: str, value: Any, expectation: str) -> None:
  if not ok:
    raise ConfigError(f"config.{path}={value!r} must be {expectation}.")
