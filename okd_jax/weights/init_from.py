"""Starts a run from trained weights."""

import dataclasses
from pathlib import Path
from typing import Any

from jax.experimental import multihost_utils
import numpy as np

from okd_jax.core import Variables
from okd_jax.devices import mesh as mesh_lib
from okd_jax.errors import ConfigError
from okd_jax.groups.group import Branches, Peers
from okd_jax.groups.mixed import Mixed
from okd_jax.runs import run as reopen
from okd_jax.settings.schema import RunConfig
from okd_jax.training import state as state_lib
from okd_jax.training.setup import Recipe
from okd_jax.training.state import Average, TrainState
from okd_jax.weights import exported as leader_lib


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
  if not config.init_from or reopen.saved_config(workdir) is not None:
    return
  if (path / leader_lib.CARD).exists():
    leader_lib.read_card(path)
    return
  try:
    reopen.about(path)
  except ConfigError as error:
    raise ConfigError(f"config.init_from='{path}': {error}") from error


def fill(recipe: Recipe, state: TrainState, path: Path) -> TrainState:
  """Puts trained weights and statistics into the peers of a new state.

  From a work directory every peer continues as the peer of the same number
  (as its average if the run kept one). From an exported leader every peer
  starts from the same weights, but only the leader keeps its classifier: the
  others' stay as drawn, since equal peers that see equal batches would remain
  equal for good. The method's own variables and the optimiser start anew.

  Args:
    recipe: of the new run.
    state: as from `okd_jax.training.state.init`.
    path: a work directory or an exported leader.

  Returns:
    The state, on the same devices.

  Raises:
    ConfigError: naming the first array that does not fit.
  """
  drawn = state_lib.variables(state.params, state.memory, "peers")
  if (path / leader_lib.CARD).exists():
    card = leader_lib.read_card(path)
    weights = leader_lib.read_weights(path, card)
    filled = _from_leader(recipe, drawn, weights, path)
  else:
    filled = _from_run(drawn, reopen.run(path).peers_variables, path)
  params = state.params | {"peers": filled.pop("params")}
  memory = state.memory | {"peers": filled}
  average = None if state.average is None else Average(params, memory)
  return mesh_lib.place(
    dataclasses.replace(state, params=params, memory=memory, average=average),
    state_lib.shardings(recipe, state),
  )


def _from_run(drawn: Variables, trained: Variables, path: Path) -> Variables:
  ours, theirs = leader_lib.flatten(drawn), leader_lib.flatten(trained)
  for name in sorted(ours | theirs):
    _require_same(path, name, _shape(ours, name), _shape(theirs, name))
  return leader_lib.unflatten(theirs)


def _from_leader(
  recipe: Recipe, drawn: Variables, weights: dict[str, Any], path: Path
) -> Variables:
  peers = recipe.peers
  leader = range(peers.num_peers)[recipe.method.leader]
  heads = _classifiers(weights, recipe.info.num_classes)
  filled = {}
  used = set()
  for name, leaf in leader_lib.flatten(drawn).items():
    own = _name_in_network(peers, name)
    used.add(own)
    shared = isinstance(peers, Branches) and name.split("/")[1] == "trunk"
    shape = tuple(leaf.shape) if shared else tuple(leaf.shape[1:])
    _require_same(path, own, shape, _shape(weights, own))
    if own.rpartition("/")[0] in heads and not shared:
      filled[name] = _only_leader(peers, name, leaf, weights[own], leader)
    else:
      filled[name] = np.broadcast_to(weights[own], leaf.shape)
  for own in sorted(weights.keys() - used):
    _require_same(path, own, None, _shape(weights, own))
  return leader_lib.unflatten(filled)


def _classifiers(weights: dict[str, Any], num_classes: int) -> set[str]:
  """Linear layers with one output a class."""
  return {
    name.removesuffix("/kernel")
    for name, value in weights.items()
    if name.endswith("/kernel")
    and value.ndim == 2
    and value.shape[-1] == num_classes
  }


def _name_in_network(peers: Peers, name: str) -> str:
  """The name in a network of its own of an array in the group."""
  if not isinstance(peers, Branches | Mixed):
    return name
  collection, _, rest = name.split("/", 2)
  return f"{collection}/{rest}"


def _only_leader(peers, name, leaf, value, leader):
  if isinstance(peers, Mixed):
    # Every group of a mixture is one network, numbered like the peers.
    return value[None] if f"/group_{leader}/" in name else leaf
  # A copy on the host: what has a peer axis may be spread over processes.
  whole = np.array(multihost_utils.process_allgather(leaf, tiled=True))
  whole[leader] = value
  return whole


def _shape(arrays: dict[str, Any], name: str) -> tuple[int, ...] | None:
  return tuple(arrays[name].shape) if name in arrays else None


def _require_same(path: Path, name: str, ours: Any, theirs: Any) -> None:
  if ours != theirs:
    raise ConfigError(
      f"config.init_from='{path}': '{name}' is of shape {theirs or 'absent'} "
      f"there, and {ours or 'absent'} in this run; name a run or a leader of "
      "the same network, number of classes and, for a run, group."
    )
