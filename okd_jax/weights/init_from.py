"""Starts a run from trained weights."""

import dataclasses
from pathlib import Path
from typing import Any

from okd_jax.core import Variables
from okd_jax.devices import mesh as mesh_lib
from okd_jax.errors import ConfigError
from okd_jax.runs import run as run_lib
from okd_jax.settings.schema import RunConfig
from okd_jax.training import state as state_lib
from okd_jax.training.setup import Setup
from okd_jax.training.state import Average, TrainState
from okd_jax.weights import exported


def check(config: RunConfig, workdir: Path) -> None:
  """Refuses a run whose trained weights are not there, before it begins.

  Args:
    config: of the run.
    workdir: of the run; one that has begun needs those weights no more.

  Raises:
    ConfigError: if `config.init_from` names neither a run nor a leader.
    LeaderError: if it names a damaged leader.
  """
  path = Path(config.init_from)
  if not config.init_from or run_lib.saved_config(workdir) is not None:
    return
  if (path / exported.CARD).exists():
    exported.read_card(path)
    return
  try:
    run_lib.about(path)
  except ConfigError as error:
    raise ConfigError(f"config.init_from='{path}': {error}") from error


def fill(setup: Setup, state: TrainState, path: Path) -> TrainState:
  """Puts trained weights and statistics into the peers of a new state.

  From a work directory every peer continues as the peer of the same number
  (as its average if the run kept one). From an exported leader every peer
  starts from the same weights, but only the leader keeps its classifier: the
  others' stay as drawn, since equal peers that see equal batches would remain
  equal for good. The method's own variables and the optimiser start anew.

  Args:
    setup: of the new run.
    state: as from `okd_jax.training.state.init`.
    path: a work directory or an exported leader.

  Returns:
    The state, on the same devices.

  Raises:
    ConfigError: naming the first array that does not fit.
  """
  drawn = state_lib.variables(state.params, state.memory, "peers")
  if (path / exported.CARD).exists():
    card = exported.read_card(path)
    weights = exported.read_weights(path, card)
    filled = _from_leader(setup, drawn, weights, path)
  else:
    filled = _from_run(drawn, run_lib.run(path).peers_variables, path)
  where = state_lib.shardings(setup, state)
  params = {"peers": filled.pop("params")}
  memory = {"peers": filled}

  def renewed(part: Any, where: Any) -> dict[str, Any]:
    return {
      "params": part.params
      | mesh_lib.place(params, {"peers": where.params["peers"]}),
      "memory": part.memory
      | mesh_lib.place(memory, {"peers": where.memory["peers"]}),
    }

  average = state.average
  if average is not None:
    average = Average(**renewed(average, where.average))
  return dataclasses.replace(state, **renewed(state, where), average=average)


def _from_run(drawn: Variables, trained: Variables, path: Path) -> Variables:
  ours, theirs = exported.flatten(drawn), exported.flatten(trained)
  for name in sorted(ours | theirs):
    _require_same(path, name, _shape(ours, name), _shape(theirs, name))
  return trained


def _from_leader(
  setup: Setup, drawn: Variables, weights: dict[str, Any], path: Path
) -> Variables:
  peers = setup.peers
  leader = range(peers.num_peers)[setup.method.leader]
  heads = _classifiers(weights, setup.task.out_shape()[-1])
  # A copy on the host: what has a peer axis may be spread over processes.
  filled = mesh_lib.to_host(drawn)
  used: set[str] = set()
  # What peers share is that of the last one to be put in.
  others = [peer for peer in range(peers.num_peers) if peer != leader]
  for peer in (*others, leader):
    network = {}
    own = exported.flatten(peers.extract(filled, peer)[1])
    for name, leaf in own.items():
      _require_same(path, name, tuple(leaf.shape), _shape(weights, name))
      stays = name.rpartition("/")[0] in heads and peer != leader
      network[name] = leaf if stays else weights[name]
    used.update(own)
    filled = peers.insert(filled, peer, exported.unflatten(network))
  for name in sorted(weights.keys() - used):
    _require_same(path, name, None, _shape(weights, name))
  return filled


def _classifiers(weights: dict[str, Any], num_classes: int) -> set[str]:
  """Linear layers with one output a class."""
  return {
    name.removesuffix("/kernel")
    for name, value in weights.items()
    if name.endswith("/kernel")
    and value.ndim == 2
    and value.shape[-1] == num_classes
  }


def _shape(arrays: dict[str, Any], name: str) -> tuple[int, ...] | None:
  return tuple(arrays[name].shape) if name in arrays else None


def _require_same(path: Path, name: str, ours: Any, theirs: Any) -> None:
  if ours != theirs:
    raise ConfigError(
      f"config.init_from='{path}': '{name}' is of shape {theirs or 'absent'} "
      f"there, and {ours or 'absent'} in this run; name a run or a leader of "
      "the same network, number of classes and, for a run, group."
    )
