"""The frozen teacher of a run, from an earlier run or a file of PyTorch."""

import dataclasses
import logging

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from okd_jax import backbones, groups
from okd_jax.backbones.network import Network
from okd_jax.core import Array, Outputs, Variables
from okd_jax.data.info import DataInfo
from okd_jax.devices import mesh as mesh_lib
from okd_jax.errors import ConfigError, DataError
from okd_jax.groups import once
from okd_jax.runs import outcome, run as run_lib, same_data
from okd_jax.settings import build, config as config_lib
from okd_jax.settings.schema import RunConfig
from okd_jax.storage import files, paths
from okd_jax.storage.paths import Path
from okd_jax.weights import exported, torch as interop, torch_archive

_log = logging.getLogger(__name__)


def load(
  config: RunConfig, info: DataInfo, on: Mesh
) -> tuple[groups.Group | None, Variables | None]:
  """Loads the teacher that a configuration names.

  If `config.teacher` is a work directory, the teacher is the network that this
  run deploys. If it has learned the same classes in another order, its logits
  are reordered.

  Args:
    config: configuration of the run to be taught.
    info: facts about the data of that run.
    on: mesh of that run. The teacher is not split over peers, so each device
      takes an equal part of the batch.

  Returns:
    A group of one network, and its variables on the devices. Both are None if
    no teacher is named.

  Raises:
    ConfigError: if the teacher cannot be read or does not fit the data.
    DataError: if the teacher has learned other classes.
    CheckpointError: if its run has no verified checkpoint.
  """
  if not config.teacher:
    return None, None
  devices = mesh_lib.without_peer_axis(on)
  if config.batch_size % (devices.size * config.accumulate):
    raise ConfigError(
      f"config.batch_size={config.batch_size} must be a multiple of "
      f"{devices.size * config.accumulate}: the teacher takes it in "
      f"config.accumulate={config.accumulate} part(s), and each is divided "
      f"among {devices.size} device(s); change one of them."
    )
  path = paths.anywhere(config.teacher)
  leader = exported.folder_of(path)
  if leader:
    raise ConfigError(
      f"config.teacher='{path}' is an exported network, which does not say how "
      "it is built; name the work directory of its run, and leave "
      "config.teacher_net empty."
    )
  info = build.with_normalization(config, info)
  if files.is_folder(path):
    net, variables = _from_run(path, info)
  else:
    net, variables = _from_state_dict(path, config, info)
  if config_lib.make_method(config).needs.raw_maps:
    net = _with_raw_maps(net)
  group = groups.replicas(net, 1, devices, config.peers.mapping)
  stacked = jax.tree.map(lambda leaf: leaf[None], mesh_lib.to_host(variables))
  where = mesh_lib.shardings(devices, group.specs(stacked))
  return group, mesh_lib.place(stacked, where)


def _from_run(path: Path, info: DataInfo) -> tuple[nn.Module, Variables]:
  run = run_lib.run(path)
  outcome.warn_if_unfinished("config.teacher", run)
  theirs = run.info
  for field in ("num_classes", "image_shape", "mean", "std"):
    ours = getattr(info, field)
    if getattr(theirs, field) != ours:
      raise ConfigError(
        f"config.teacher='{path}' was trained on images with {field}="
        f"{getattr(theirs, field)} and this run has {ours}; name a teacher "
        "that was trained on the same data."
      )
  net, variables = run.setup.peers.extract(run.peers_variables, run.leader)
  difference = same_data.classes(theirs.class_names, info.class_names)
  if not difference:
    return net, variables
  if sorted(theirs.class_names) != sorted(info.class_names):
    raise DataError(
      f"config.teacher='{path}' was trained on other classes: {difference}. "
      "Name a teacher of the same classes."
    )
  _log.warning(
    "The classes of config.teacher='%s' are in another order than here; the "
    "teacher's logits are reordered by the names of the classes.",
    path,
  )
  order = tuple(map(theirs.class_names.index, info.class_names))
  return Reordered(net, order), {
    name: {"net": tree} for name, tree in variables.items()
  }


class Reordered(nn.Module):
  """A network whose classes are put into another order.

  Attributes:
    net: the network.
    order: for each class, its index in the network's logits.
  """

  net: nn.Module
  order: tuple[int, ...]

  @nn.compact
  def __call__(self, images: Array, *, train: bool) -> Outputs:
    """Returns the network's outputs, with their logits reordered."""
    outputs = groups.as_outputs(self.net(images, train=train))
    logits = outputs.logits[..., jnp.asarray(self.order)]
    return dataclasses.replace(outputs, logits=logits)


def _with_raw_maps(net: nn.Module) -> nn.Module:
  """The network, with the last map as its last stage returns it."""
  if isinstance(net, Reordered):
    return net.clone(net=_with_raw_maps(net.net))
  return net.clone(raw_maps=True) if isinstance(net, Network) else net


def _from_state_dict(
  path: Path, config: RunConfig, info: DataInfo
) -> tuple[nn.Module, Variables]:
  net = backbones.make(config.teacher_net, info.num_classes)
  image = jax.ShapeDtypeStruct((1, *info.image_shape), jnp.float32)
  shapes = once.shapes(net, image)[1]
  try:
    return net, interop.load_torch(shapes, torch_archive.read_state_dict(path))
  except ValueError as error:
    raise ConfigError(
      f"config.teacher='{path}' does not hold a {config.teacher_net} for "
      f"{info.num_classes} classes: {error}"
    ) from error
