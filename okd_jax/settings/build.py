"""Builds the parts of a run from its configuration."""

import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from okd_jax import backbones, data, groups, outside, tasks
from okd_jax.core import Needs
from okd_jax.data.augmentation import PLAIN
from okd_jax.data.info import DataInfo
from okd_jax.errors import ConfigError
from okd_jax.settings import config as config_lib
from okd_jax.settings.schema import RunConfig
from okd_jax.tasks.task import Task
from okd_jax.training import state as state_lib
from okd_jax.training.setup import Setup, with_optim

# Share of the full rate that epochs after the schedule need at least; one_cycle
# ends with 4e-6 of it.
_LEAST_RATE = 1e-5


def source(config: RunConfig, on: Mesh | None = None) -> data.Source:
  """Opens the data set.

  Raises:
    DataError: if it is missing or damaged.
  """
  method = config_lib.make_method(config)
  needs = method.needs
  has_views = needs.views or (
    config.augment.mixes and config.augment.mix_per_peer
  )
  made = data.make(
    config.data,
    batch_size=config.batch_size,
    eval_batch_size=config.eval_batch_size,
    seed=config.seed,
    held_out=needs.held_out,
    num_views=config.peers.num_peers if has_views else None,
    mesh=on,
  )
  if made.train_size < config.batch_size:
    raise ConfigError(
      f"config.batch_size={config.batch_size} must not exceed the "
      f"{made.train_size} training examples; lower it."
    )
  if needs.train_labels:
    method.check_labels(made.train_labels(made.info.num_train))
  return made


def setup(
  config: RunConfig,
  info: DataInfo,
  train_size: int,
  on: Mesh,
  teacher: groups.Group | None = None,
) -> Setup:
  """Puts together everything that stays fixed during a run."""
  method = config_lib.make_method(config)
  info = with_normalization(config, info)
  made = with_optim(
    config.optim,
    config.schedule,
    peers=peers(config, info, on, method.needs),
    method=method,
    task=_task(config, info),
    epochs=config.epochs,
    batch_size=config.batch_size,
    train_size=train_size,
    rampup_epochs=config.rampup_epochs,
    rampup_per_step=config.rampup_per_step,
    num_positions=info.num_train,
    accumulate=config.accumulate,
    ema_decay=config.ema_decay or None,
    teacher=teacher,
  )
  # Only now: schedules end before the extra epochs.
  epochs = config.epochs + config.extra_epochs
  made = dataclasses.replace(made, epochs=epochs)
  if config.extra_epochs and made.learning_rate is not None:
    last = float(made.learning_rate(jnp.asarray(made.total_steps - 1)))
    if not last > _LEAST_RATE * config.optim.learning_rate:
      raise ConfigError(
        f"config.extra_epochs={config.extra_epochs} must be 0: the schedule "
        f"{config.schedule.name} ends with a rate of {last:.1g}, and nothing "
        "would be learned. Start another run from this one with "
        "config.init_from."
      )
  return made


def _task(config: RunConfig, info: DataInfo) -> Task:
  """The task, with the changes of pictures and targets that are asked for."""
  made = tasks.load(info.task).of(info, pad_mode=config.pad_mode)
  asked = (config.augment, config.label_smoothing, config.class_weights)
  longest = max(info.image_shape[:2])
  if config.augment.cutout > longest:
    raise ConfigError(
      f"config.augment.cutout={config.augment.cutout} must be at most "
      f"{longest}, the longer side of the pictures, of which little would be "
      "left; choose fewer pixels."
    )
  return made if asked == (PLAIN, 0.0, ()) else made.changed(*asked)


def with_normalization(config: RunConfig, info: DataInfo) -> DataInfo:
  """The data as networks see them: normalised as the configuration says.

  Raises:
    ConfigError: if the numbers are not one per channel.
  """
  changes: dict[str, Any] = {}
  for name in ("mean", "std"):
    values = getattr(config, f"image_{name}")
    if len(values) not in (0, info.image_shape[-1]):
      raise ConfigError(
        f"config.image_{name}={values} must have one number for each of the "
        f"{info.image_shape[-1]} channels, or none for the data set's own."
      )
    if values:
      changes[name] = values
  return dataclasses.replace(info, **changes)


def peers(
  config: RunConfig, info: DataInfo, on: Mesh, needs: Needs
) -> groups.Group:
  """Builds the group.

  Raises:
    ConfigError: if networks, kind and mesh do not go together.
  """
  names = config.peers.net.split(",")
  nets = [
    network(name, config, info, raw_maps=needs.raw_maps) for name in names
  ]
  mapping = config.peers.mapping
  if config.peers.kind == "branches":
    if len(names) > 1:
      image = jax.ShapeDtypeStruct((1, *info.image_shape), jnp.float32)
      return groups.different_branches(
        nets, on, mapping, needs.trunk_gradient, image
      )
    return groups.branches(
      nets[0], config.peers.num_peers, on, mapping, needs.trunk_gradient
    )
  if len(names) == 1:
    return groups.replicas(nets[0], config.peers.num_peers, on, mapping)
  return groups.mixed(nets, on, mapping)


def network(
  name: str, config: RunConfig, info: DataInfo, *, raw_maps: bool
) -> nn.Module:
  """Builds one network: ours by name, or a user's by `module:Class`.

  A class of flax nnx is returned as a linen module. `raw_maps` is for networks
  of `okd_jax.backbones`; others decide themselves which maps they return.

  Raises:
    ConfigError: if the name is unknown or an option is not the network's.
  """
  options: dict[str, Any] = {}
  if config.peers.split:
    options["split"] = max(config.peers.split, 0)
  if config.peers.dropout:
    options["dropout"] = config.peers.dropout
  if config.precision != "float32":
    options["dtype"] = jnp.dtype(config.precision)
  if ":" not in name:
    if raw_maps:
      options["raw_maps"] = True
    return backbones.make(name, info.num_classes, **options)
  made = outside.find("config.peers.net", name, "class")
  if config.peers.kind == "replicas" and not outside.takes(made, "split"):
    options.pop("split", None)  # whole networks need not know of it
  if isinstance(made, type) and not issubclass(made, nn.Module):
    from flax import nnx  # which takes long, and few runs need it

    from okd_jax.backbones import nnx_network

    if issubclass(made, nnx.Module):
      return nnx_network.make(made, info.num_classes, **options)
  try:
    net = made(num_classes=info.num_classes, **options)
  except TypeError as error:
    raise ConfigError(
      f"config.peers.net='{name}' could not be made with num_classes and "
      f"{sorted(options) or 'no options'} ({error}); give the class these "
      f"fields{outside.or_unset(options)}."
    ) from error
  if not isinstance(net, nn.Module):
    raise ConfigError(
      f"config.peers.net='{name}' is neither a linen module nor a class of "
      "flax nnx; name a subclass of flax.linen.Module or of flax.nnx.Module."
    )
  return net


def check_networks(setup: Setup) -> None:
  """Traces the networks on the data's images, without compiling.

  Raises:
    ConfigError: if their logits do not have the shape that the task needs.
    ValueError: if a network cannot take images of that size, or cannot be a
      peer on this mesh.
  """
  groups.check(
    setup.peers,
    setup.example_images(),
    has_views=setup.has_views,
  )
  shapes = setup.peers.shapes(setup.example_images())
  state_lib.outputs_like(setup, shapes)  # which refuses other logits


def check_optimizer(config: RunConfig, setup: Setup) -> None:
  """Traces an update of an optimiser from outside, without compiling.

  Raises:
    ConfigError: if it needs an argument that a training step does not have.
  """
  if ":" not in config.optim.name:
    return
  zero = jnp.zeros(())

  def update(params):
    opt_state = setup.optimizer.init(params)
    return setup.optimizer.update(
      params, opt_state, params, value=zero, learning_rate=zero
    )

  try:
    state = state_lib.abstract(setup, jax.random.key(0))
    _, opt_state = jax.eval_shape(update, state.params)
    for leaf in jax.tree.leaves(opt_state):
      if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        raise ValueError("it keeps a random key, and checkpoints hold numbers")
  except ConfigError:
    raise
  except Exception as error:  # of a function that is not ours
    raise ConfigError(
      f"config.optim.name='{config.optim.name}' cannot update this group "
      f"({error}); name a function whose transformation needs no more than "
      "gradients, parameters and, as `value`, the loss."
    ) from error
