"""Starts a run from trained weights."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

from flax import linen as nn
import jax

from okd_jax.core import Variables
from okd_jax.devices import mesh as mesh_lib
from okd_jax.errors import ConfigError, DataError, WeightsError
from okd_jax.runs import run as run_lib, same_data
from okd_jax.settings.schema import RunConfig
from okd_jax.storage import bucket, paths
from okd_jax.storage.paths import Path
from okd_jax.training import state as state_lib
from okd_jax.training.setup import Setup
from okd_jax.training.state import Average, TrainState
from okd_jax.weights import exported, torch, torch_archive, torch_layers

# Weights of one network by path.
Weights = dict[str, Any]


def check(config: RunConfig, workdir: Path) -> None:
  """Refuses a run whose trained weights are not there, before it begins.

  Args:
    config: of the run.
    workdir: of the run; one that has begun needs those weights no more.

  Raises:
    ConfigError: if `config.init_from` names neither a run, nor a leader, nor a
      file.
    LeaderError: if it names a damaged leader.
  """
  if not config.init_from or run_lib.saved_config(workdir) is not None:
    return
  path = paths.anywhere(config.init_from)
  with bucket.reached(path):
    is_file, is_leader = path.is_file(), (path / exported.CARD).exists()
  if is_file:
    return
  if is_leader:
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

  From a work directory every peer continues as the peer of the same number
  (as its average if the run kept one). From an exported leader or a file of
  PyTorch every peer starts from the same weights, but only the leader keeps
  its classifier: the others' stay as drawn, since equal peers that see equal
  batches would remain equal for good. The method's own variables and the
  optimiser start anew.

  Args:
    setup: of the new run.
    state: as from `okd_jax.training.state.init`.
    path: a work directory, an exported leader, or a state dict.
    head: whether classifiers are taken over. Otherwise all stay as drawn, and
      the classes there may be others, or of another number.

  Returns:
    The state, on the same devices.

  Raises:
    ConfigError: naming the first array that does not fit.
    DataError: if the classes there are others, and classifiers are taken over.
    WeightsError: if a file does not hold a network of that kind.
  """
  drawn = state_lib.variables(state.params, state.memory, "peers")
  if path.is_file():
    filled = _from_file(setup, drawn, path, head)
  elif (path / exported.CARD).exists():
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
  trained = run.peers_variables
  if head:
    _require_same_classes(setup, path, run.info.class_names)
    ours, theirs = exported.flatten(drawn), exported.flatten(trained)
    for name in sorted(ours | theirs):
      _require_same(path, name, _shape(ours, name), _shape(theirs, name))
    return trained
  count, theirs_count = setup.peers.num_peers, run.setup.peers.num_peers
  if count != theirs_count:
    raise ConfigError(
      f"config.init_from='{path}' has {theirs_count} peers, and this run "
      f"{count}; name its leader, {path / 'leader'}, to start every peer from "
      "one network."
    )

  def network(peer: int) -> Weights:
    return exported.flatten(run.setup.peers.extract(trained, peer)[1])

  return _insert(setup, drawn, path, network, lambda _: False)


def _from_leader(
  setup: Setup, drawn: Variables, path: Path, head: bool
) -> Variables:
  card = exported.read_card(path)
  weights = exported.read_weights(path, card)
  classes = card.get("classes", ())
  if head:
    _require_same_classes(setup, path, classes)
  return _insert(
    setup, drawn, path, lambda _: weights, _leader_alone(setup, head)
  )


def _from_file(
  setup: Setup, drawn: Variables, path: Path, head: bool
) -> Variables:
  state_dict = torch_archive.read_state_dict(path)
  count = torch_layers.num_classes(state_dict)
  wanted = setup.task.out_shape()[-1]
  if head and count != wanted:
    raise WeightsError(
      f"config.init_from='{path}' holds a network of {count} classes, and this "
      f"run has {wanted}; set config.init_from_head=false to draw the "
      "classifier anew."
    )

  def network(peer: int) -> Weights:
    net = _of_classes(setup.peers.extract(drawn, peer)[0], count)
    try:
      return exported.flatten(torch.load_torch(_shapes(setup, net), state_dict))
    except WeightsError as error:
      raise WeightsError(f"config.init_from='{path}': {error}") from error

  return _insert(setup, drawn, path, network, _leader_alone(setup, head))


def _of_classes(net: nn.Module, count: int) -> nn.Module:
  """The same network with another number of classes."""
  if getattr(net, "num_classes", count) == count:
    return net
  return net.clone(num_classes=count)


def _leader_alone(setup: Setup, head: bool) -> Callable[[int], bool]:
  """Which peers keep the classifier that all networks have alike."""
  leader = range(setup.peers.num_peers)[setup.method.leader]
  return lambda peer: head and peer == leader


def _insert(
  setup: Setup,
  drawn: Variables,
  path: Path,
  network: Callable[[int], Weights],
  keeps_head: Callable[[int], bool],
) -> Variables:
  """Puts networks into the peers one by one.

  Args:
    setup: of the new run.
    drawn: variables of the group.
    path: where the networks are from.
    network: the weights for a peer.
    keeps_head: whether a peer takes the classifier over; it stays as drawn
      otherwise.
  """
  peers = setup.peers
  # A copy on the host: what has a peer axis may be spread over processes.
  filled = mesh_lib.to_host(drawn)
  # What peers share is that of the last one to be put in: the leader, if any
  # keeps its classifier.
  for peer in sorted(range(peers.num_peers), key=keeps_head):
    weights = network(peer)
    net, variables = peers.extract(filled, peer)
    own = exported.flatten(variables)
    put = {}
    if not keeps_head(peer):
      put = {name: own[name] for name in _classifier(setup, net, own)}
    for name in sorted((own | weights).keys() - put.keys()):
      _require_same(path, name, _shape(own, name), _shape(weights, name))
      put[name] = weights[name]
    filled = peers.insert(filled, peer, exported.unflatten(put))
  return filled


def _classifier(setup: Setup, net: nn.Module, own: Weights) -> set[str]:
  """The arrays of a network whose shapes follow from the number of classes."""
  count = getattr(net, "num_classes", None)
  if count is not None:
    other = exported.flatten(_shapes(setup, _of_classes(net, count + 1)))
    return {name for name in own if _shape(own, name) != _shape(other, name)}
  # A network that does not say: linear layers with one output a class.
  layers = {
    name.removesuffix("kernel")
    for name, value in own.items()
    if name.endswith("/kernel")
    and value.ndim == 2
    and value.shape[-1] == setup.task.out_shape()[-1]
  }
  return {name for name in own if name[: name.rfind("/") + 1] in layers}


def _shapes(setup: Setup, net: nn.Module) -> Variables:
  """The variables of a network, without their values."""
  return jax.eval_shape(
    lambda key, x: net.init(key, x, train=False),
    jax.random.key(0),
    setup.example_images(),
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
    raise ConfigError(
      f"config.init_from='{path}': '{name}' is of shape {theirs or 'absent'} "
      f"there, and {ours or 'absent'} in this run; name a run or a leader of "
      "the same network and, for a run, group. With "
      "config.init_from_head=false the number of classes may differ."
    )
