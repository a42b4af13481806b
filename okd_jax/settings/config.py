"""Checks a configuration early, and whether a run may resume with it."""

from collections.abc import Iterator, Mapping
import dataclasses
import hashlib
import json
from typing import Any

from okd_jax import backbones, data, methods, rules
from okd_jax.core import Method
from okd_jax.data import order
from okd_jax.errors import ConfigError
from okd_jax.settings import idle
from okd_jax.settings.freeze import flatten, replace
from okd_jax.settings.schema import RunConfig
from okd_jax.storage import files, paths
from okd_jax.tasks import figure
from okd_jax.training.setup import (
  require_one_average,
  require_one_mixture,
  require_task,
)

# Settings of earlier releases that are gone.
_REMOVED = ("seeds_mapping",)


def check(config: RunConfig) -> None:
  """Refuses a configuration that cannot be run, before anything is built.

  Raises:
    ConfigError: naming the value, what was expected, and the remedy.
  """
  if not isinstance(config, RunConfig):
    raise TypeError(
      f"a {type(config).__name__} is no configuration of a run; make one with "
      "okd_jax.settings.freeze.freeze(config)."
    )
  if config.method is None:
    raise ConfigError(
      "config.method is missing; a recipe sets it with common.method(NAME)."
    )
  rules.check(config)
  data.check(config.data)
  _check_draws(config)
  _check_nets(config)
  method = make_method(config)
  require_task(config.data.task, method)
  if config.peers.num_peers < method.min_peers:
    raise ConfigError(
      f"config.peers.num_peers={config.peers.num_peers}: method "
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
  if config.batch_size % config.accumulate:
    raise ConfigError(
      f"config.batch_size={config.batch_size} must be a multiple of "
      f"config.accumulate={config.accumulate}; change one of them."
    )
  require_one_average(config.ema_decay or None, method)
  _check_best_by(config.best_by)
  _check_teacher(config, method.needs.teacher)
  idle.check(config)
  require_one_mixture(config.augment.mix_per_peer, method)


def _check_draws(config: RunConfig) -> None:
  per_class = config.data.per_class
  if not per_class:
    return
  draws = order.num_draws(config.batch_size, per_class)
  if draws % config.accumulate:
    raise ConfigError(
      f"config.accumulate={config.accumulate} must divide the {draws} draws of "
      f"config.data.per_class={per_class} images in a batch, so that they stay "
      "together; change one of them."
    )


def _check_best_by(name: str) -> None:
  if not name:
    return
  try:
    split = figure.parse(name).split
  except ValueError:
    split = ""
  if split not in ("validation", "test"):
    raise ConfigError(
      f"config.best_by='{name}' must be the name of a figure on validation or "
      "test data, such as validation/ensemble/accuracy."
    )


def _check_nets(config: RunConfig) -> None:
  nets = config.peers.net.split(",")
  for net in nets:
    if ":" not in net:
      backbones.make(net, num_classes=1)  # refuses an unknown name
  if len(nets) not in (1, config.peers.num_peers):
    raise ConfigError(
      f"config.peers.net names {len(nets)} networks and "
      f"config.peers.num_peers={config.peers.num_peers}; name one network, or "
      "one a peer."
    )


def _check_teacher(config: RunConfig, needed: bool) -> None:
  if not needed:
    if config.teacher or config.teacher_net:
      raise ConfigError(
        f"config.teacher='{config.teacher}' and config.teacher_net="
        f"'{config.teacher_net}': method '{config.method.name}' has no "
        "teacher with these settings; leave both empty."
      )
    return
  if not config.teacher:
    raise ConfigError(
      f"config.teacher='': method '{config.method.name}' needs a trained "
      "teacher; set it to the work directory of a run, or to a .safetensors "
      "or .pth file and config.teacher_net to its network."
    )
  path = paths.anywhere(config.teacher)
  is_file = files.is_file(path)
  if not is_file and not files.exists(path):
    raise ConfigError(
      f"config.teacher={config.teacher!r} must be an existing path; if the "
      "teacher has moved, name where it is now."
    )
  if is_file and not config.teacher_net:
    raise ConfigError(
      f"config.teacher={config.teacher!r} is a file, so config.teacher_net='' "
      "must be the network that it belongs to, a name of okd_jax.backbones."
    )
  if config.teacher_net and not is_file:
    raise ConfigError(
      f"config.teacher_net='{config.teacher_net}' must be empty: "
      f"config.teacher={config.teacher!r} is a folder, which knows its network."
    )


def make_method(config: RunConfig) -> Method:
  """Builds the method of a configuration.

  Raises:
    ConfigError: if its name or a hyperparameter is unknown.
  """
  section = config.method
  return methods.make(
    section.name,
    **{
      field.name: getattr(section, field.name)
      for field in dataclasses.fields(section)
      if field.name != "name"
    },
  )


def digest(config: RunConfig) -> str:
  """A short hash of everything that changes a run's result."""
  described, flat = dict(_fields(config)), flatten(config)
  kept = {
    path: value
    for path, value in flat.items()
    if not (
      described[path].metadata.get("free_on_resume")
      # Earlier releases did not have it, and their runs keep their hash.
      or (
        described[path].metadata.get("added")
        and value == described[path].default
      )
    )
  }
  text = json.dumps(kept, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def of_today(saved: Mapping[str, Any]) -> dict[str, Any]:
  """A configuration that an earlier release saved, in today's settings."""
  kept = {key: saved[key] for key in saved if key not in _REMOVED}
  # Earlier releases did not turn pictures as EXIF says.
  return kept | {"data": {"exif": False} | kept.get("data", {})}


def as_begun(config: RunConfig, saved: Mapping[str, Any]) -> RunConfig:
  """The configuration, with the values that a run keeps from its beginning.

  Runs of earlier releases did not turn pictures as their EXIF data say. A
  teacher is identified by its weights (`okd_jax.runs.same_teacher`), so the run
  keeps the path that it had. An equal number keeps its type: 4 and 4.0 have
  different hashes.

  Args:
    config: configuration of the command.
    saved: configuration of the run, as read from its config.json.
  """
  ours, theirs = flatten(config), flatten(of_today(saved))
  kept = {
    path: theirs[path]
    for path in ours.keys() & theirs.keys()
    if ours[path] == theirs[path] and repr(ours[path]) != repr(theirs[path])
  }
  kept["data.exif"] = theirs["data.exif"]
  if config.teacher and saved.get("teacher"):
    kept["teacher"] = saved["teacher"]
  return replace(config, kept)


def require_resumable(config: RunConfig, saved: Mapping[str, Any]) -> None:
  """Refuses to resume a run with a configuration that changes its result.

  Args:
    config: configuration of the command.
    saved: configuration of the run, as read from its config.json.

  Raises:
    ConfigError: listing every key that differs.
  """
  described = dict(_fields(config))
  free = {p for p, f in described.items() if f.metadata.get("free_on_resume")}
  before = {p: f.default for p, f in described.items() if "added" in f.metadata}
  ours = flatten(as_begun(config, saved))
  theirs = before | flatten(of_today(saved))
  changed = [
    f"  config.{path}: {theirs.get(path, 'absent')!r} in the run, "
    f"{ours.get(path, 'absent')!r} in the command"
    for path in sorted(ours | theirs)
    if ours.get(path) != theirs.get(path) and path not in free
  ]
  if changed:
    hints = ""
    if "epochs" in theirs and ours["epochs"] != theirs["epochs"]:
      hints += (
        f" To train this run longer, leave config.epochs={theirs['epochs']} "
        "and what follows from it, and set config.extra_epochs."
      )
    if ours["data.name"] != theirs.get("data.name"):
      hints += (
        " If the data have only moved, leave config.data.name as it was and "
        "say where they are with --data=PATH."
      )
    raise ConfigError(
      "the work directory holds a run of another configuration:\n"
      + "\n".join(changed)
      + f"\nChoose another --workdir, or take the changes back.{hints}"
    )


def _fields(
  section: Any, prefix: str = ""
) -> Iterator[tuple[str, dataclasses.Field[Any]]]:
  """Every setting's field by its path, joined by dots."""
  for field in dataclasses.fields(section):
    value = getattr(section, field.name)
    if dataclasses.is_dataclass(value):
      yield from _fields(value, f"{prefix}{field.name}.")
    else:
      yield prefix + field.name, field
