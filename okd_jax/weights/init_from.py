"""Starts a run from trained weights."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax

from okd_jax.core import Variables
from okd_jax.devices import mesh as mesh_lib
from okd_jax.errors import ConfigError, DataError, WeightsError
from okd_jax.runs import outcome, run as run_lib, same_data
from okd_jax.settings.schema import RunConfig
from okd_jax.storage import files, paths
from okd_jax.storage.paths import Path
from okd_jax.training import state as state_lib
from okd_jax.training.setup import Setup
from okd_jax.training.state import Average, TrainState
from okd_jax.weights import (
  classifier,
  exported,
  torch,
  torch_archive,
  torch_layers,
)

# Weights of one network by path, as from `exported.flatten`.
Weights = dict[str, Any]


def check(config: RunConfig, workdir: Path) -> None:
  """Checks, before a run starts, that its trained weights exist.

  Args:
    config: configuration of the run.
    workdir: work directory of the run. If the run has started already, the
      weights are no longer needed and nothing is checked.

  Raises:
    ConfigError: if `config.init_from` is neither a run, nor an exported leader,
      nor a file of PyTorch.
    LeaderError: if it is an exported leader whose card is damaged.
  """
  if not config.init_from or run_lib.saved_config(workdir) is not None:
    return
  path = paths.anywhere(config.init_from)
  is_file, leader = files.is_file(path), exported.folder_of(path)
  if is_file and leader:
    raise ConfigError(
      f"config.init_from='{path}' is a file of an exported network; name the "
      f"whole folder, {leader}."
    )
  if is_file:
    return
  if leader:
    exported.read_card(path)
    return
  try:
    run_lib.about(path)
  except ConfigError as error:
    raise ConfigError(f"config.init_from='{path}': {error}") from error


def fill(
  setup: Setup, state: TrainState, path: Path, *, head: bool = True
) -> TrainState:
  """Puts trained weights and statistics into the peers of a new state.

  From a work directory, each peer takes the weights of the peer of the same
  index (averaged ones if that run kept averages). From an exported network or a
  file of PyTorch, all peers take the same weights, but only the leader takes
  the classifier. The others keep their random classifiers, because equal peers
  that see equal batches would stay equal for ever. The method's own variables
  and the optimiser start from scratch.

  Args:
    setup: setup of the new run.
    state: its state, as from `okd_jax.training.state.init`.
    path: a work directory, an exported network, or a file with a state dict.
    head: whether to take classifiers over. If not, all peers keep their random
      classifiers, and the trained network may have other classes or another
      number of them.

  Returns:
    The state, on the same devices.

  Raises:
    ConfigError: if an array does not fit, the weights are for another task, or
      the group has another number of peers than that of the run at `path`.
    DataError: if classifiers are taken over and the classes differ.
    LeaderError: if the exported network is damaged.
    CheckpointError: if the run at `path` has no verified checkpoint.
    WeightsError: if the file does not hold the weights of such a network.
  """
  drawn = state_lib.variables(state.params, state.memory, "peers")
  if files.is_file(path):
    filled = _from_file(setup, drawn, path, head)
  elif files.exists(path / exported.CARD):
    filled = _from_leader(setup, drawn, path, head)
  else:
    filled = _from_run(setup, drawn, path, head)
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


def _from_run(
  setup: Setup, drawn: Variables, path: Path, head: bool
) -> Variables:
  run = run_lib.run(path)
  outcome.warn_if_unfinished("config.init_from", run)
  trained = run.peers_variables
  _require_same_task(setup, path, run.info.task)
  if head:
    _require_same_classes(setup, path, run.info.class_names)
    ours, theirs = exported.flatten(drawn), exported.flatten(trained)
    for name in sorted(ours | theirs):
      _require_same(path, name, _shape(ours, name), _shape(theirs, name))
    return trained
  count, theirs_count = setup.peers.num_peers, run.setup.peers.num_peers
  if count != theirs_count:
    raise ConfigError(
      f"config.init_from='{path}' has {theirs_count} peers, and this run has "
      f"{count}; to start all peers from one network, export the leader of "
      f"that run and name its folder, for example {path / 'leader'}."
    )

  def network(peer: int) -> Weights:
    return exported.flatten(run.setup.peers.extract(trained, peer)[1])

  return _insert(setup, drawn, path, network, lambda _: False)


def _from_leader(
  setup: Setup, drawn: Variables, path: Path, head: bool
) -> Variables:
  card = exported.read_card(path)
  weights = exported.read_weights(path, card)
  classes = card.get(setup.task.classes_are, ())
  _require_same_task(setup, path, card.get("task", setup.task.name))
  if head:
    _require_same_classes(setup, path, classes)
  return _insert(
    setup, drawn, path, lambda _: weights, _leader_alone(setup, head)
  )


def _from_file(
  setup: Setup, drawn: Variables, path: Path, head: bool
) -> Variables:
  try:
    state_dict = torch_archive.read_state_dict(path)
  except WeightsError as error:
    raise WeightsError(f"config.init_from='{path}': {error}") from error
  *places, wanted = setup.task.out_shape()
  # Heat maps are not the output of a linear layer.
  count = None if places else torch_layers.num_classes(state_dict)
  count = count or wanted
  if head and count != wanted:
    raise WeightsError(
      f"config.init_from='{path}' holds a network of {count} classes, and this "
      f"run has {wanted}; set config.init_from_head=false to draw the "
      "classifier anew."
    )

  def network(peer: int) -> Weights:
    net = classifier.of_classes(setup.peers.extract(drawn, peer)[0], count)
    try:
      like = classifier.shapes(setup, net)
      return exported.flatten(torch.load_torch(like, state_dict))
    except WeightsError as error:
      raise WeightsError(f"config.init_from='{path}': {error}") from error

  return _insert(setup, drawn, path, network, _leader_alone(setup, head))


def _leader_alone(setup: Setup, head: bool) -> Callable[[int], bool]:
  """A function that tells whether a peer takes the classifier over.

  Only the leader does, as all peers get weights of the same network.
  """
  return lambda peer: head and peer == setup.leader


def _insert(
  setup: Setup,
  drawn: Variables,
  path: Path,
  network: Callable[[int], Weights],
  keeps_head: Callable[[int], bool],
) -> Variables:
  """Puts trained weights into the peers one by one.

  Args:
    setup: setup of the new run.
    drawn: random variables of the group.
    path: origin of the weights, for messages.
    network: function from the index of a peer to its weights.
    keeps_head: function that tells whether a peer takes the trained classifier
      over; otherwise it keeps its random one.
  """
  peers = setup.peers
  # A copy on the host, as arrays with a peer axis may be split over processes.
  filled = mesh_lib.to_host(drawn)
  # Shared variables are those of the last peer. So the leader is last if it
  # takes the classifier over.
  for peer in sorted(range(peers.num_peers), key=keeps_head):
    weights = network(peer)
    net, variables = peers.extract(filled, peer)
    own = exported.flatten(variables)
    put = {}
    if not keeps_head(peer):
      put = {name: own[name] for name in classifier.names(setup, net, own)}
    for name in sorted((own | weights).keys() - put.keys()):
      _require_same(path, name, _shape(own, name), _shape(weights, name))
      put[name] = weights[name]
      if isinstance(put[name], jax.ShapeDtypeStruct):
        # State of the network's own, which PyTorch has no counterpart for.
        put[name] = own[name]
    filled = peers.insert(filled, peer, exported.unflatten(put))
  return filled


def _require_same_task(setup: Setup, path: Path, trained: str) -> None:
  if trained != setup.task.name:
    raise ConfigError(
      f"config.init_from='{path}' was trained for '{trained}', and this run is "
      f"for '{setup.task.name}'; name weights of the same task."
    )


def _require_same_classes(
  setup: Setup, path: Path, trained: Sequence[str]
) -> None:
  info = setup.task.info
  if info is None or not trained:
    return
  if difference := same_data.classes(trained, info.class_names):
    raise DataError(
      f"config.init_from='{path}' was trained on other classes: {difference}. "
      "Set config.init_from_head=false to draw the classifier anew."
    )


def _shape(arrays: Weights, name: str) -> tuple[int, ...] | None:
  return tuple(arrays[name].shape) if name in arrays else None


def _require_same(path: Path, name: str, ours: Any, theirs: Any) -> None:
  if ours != theirs:
    there, here = (
      "absent" if shape is None else f"of shape {shape}"
      for shape in (theirs, ours)
    )
    raise ConfigError(
      f"config.init_from='{path}': '{name}' is {there} there and {here} in "
      "this run; name a leader of the same network or a run of the same group. "
      "With config.init_from_head=false the number of classes may differ."
    )
