"""The training step that benchmarks measure, with synthetic images."""

from collections.abc import Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
import numpy as np

from okd_jax import backbones, groups, methods
from okd_jax.core import Batch
from okd_jax.data.info import DataInfo, KNOWN
from okd_jax.devices import mesh
from okd_jax.tasks import classification
from okd_jax.training import state as state_lib, step as steps
from okd_jax.training.optim import Optim
from okd_jax.training.setup import initial_key, Setup, with_optim
from okd_jax.training.state import TrainState

INFO = KNOWN["cifar100"]


def recipe(
  method: str,
  net: str,
  kind: str,
  peers: int,
  batch: int,
  precision: str = "f32",
  *,
  mapping: str = "auto",
  data: int = 1,
  peer: int = 1,
  info: DataInfo = INFO,
  devices: Sequence[jax.Device] | None = None,
) -> Setup:
  """The published CIFAR-100 recipe with another group, method or batch."""
  options: dict[str, Any] = {}
  if precision == "bf16":
    options["dtype"] = jnp.bfloat16
  made = methods.make(method)
  network = backbones.make(net, info.num_classes, **options)
  on = mesh.make_mesh(data, peer, devices)
  if kind == "branches":
    trunk = made.needs.trunk_gradient
    group = groups.branches(network, peers, on, mapping, trunk)
  else:
    group = groups.replicas(network, peers, on, mapping)
  return with_optim(
    Optim(),
    peers=group,
    teacher=groups.replicas(network, 1, mesh.without_peer_axis(on))
    if made.needs.teacher
    else None,
    method=made,
    task=classification.Task.of(info),
    epochs=300,
    batch_size=batch,
    train_size=info.num_train,
    rampup_epochs=80,
    num_positions=info.num_train,
  )


def random_batch(size: int, info: DataInfo = INFO, seed: int = 0) -> Batch:
  """Random images and labels on the host."""
  rng = np.random.default_rng(seed)
  return Batch(
    image=rng.integers(0, 256, (size, *info.image_shape), dtype=np.uint8),
    target=rng.integers(0, info.num_classes, size).astype(np.int32),
    index=np.arange(size, dtype=np.int32),
    mask=np.ones(size, bool),
  )


def step_and_arguments(setup: Setup) -> tuple[Any, tuple[Any, ...]]:
  """The jitted step as a run has it, and what to call it with."""
  initial = state(setup)
  step = jax.jit(
    functools.partial(steps.train_step, setup),
    donate_argnums=0,
    out_shardings=(state_lib.shardings(setup, initial), None),
  )
  return step, (initial, *batch_and_key(setup))


def state(setup: Setup, seed: int = 0) -> TrainState:
  """The initial state of a seed."""
  return state_lib.init(setup, initial_key(seed))


def batch_and_key(setup: Setup) -> tuple[Batch, jax.Array]:
  """What each step gets, on the devices."""
  batch = jax.device_put(
    random_batch(setup.batch_size, setup.task.info),
    NamedSharding(setup.mesh, P("data")),
  )
  key = jax.device_put(jax.random.key(0), NamedSharding(setup.mesh, P()))
  return batch, key


def taught_with(setup: Setup) -> tuple[Any, Any]:
  """What a method may need besides batches, or None: teachers, all labels."""
  variables = labels = None
  if setup.teacher is not None:
    made = setup.teacher.init(jax.random.key(7), setup.example_images())
    where = mesh.shardings(setup.teacher.mesh, setup.teacher.specs(made))
    variables = mesh.place(jax.device_get(made), where)
  if setup.method.needs.train_labels:
    every = np.arange(setup.num_examples) % setup.task.info.num_classes
    everywhere = NamedSharding(setup.mesh, P())
    labels = mesh.place(every.astype(np.int32), everywhere)
  return variables, labels


def multiply_adds(setup: Setup) -> tuple[int, int]:
  """Multiply-adds of the forward pass of an image: what is shared, a peer."""
  info, stem = setup.task.info, setup.peers.stem
  (stack,) = setup.peers.stacks
  count = backbones.count_multiply_adds
  if stem is None:
    return 0, count(stack.net, info.image_shape)
  hidden = jax.eval_shape(
    lambda x: stem.init_with_output(jax.random.key(0), x, train=False)[0],
    jnp.zeros((1, *info.image_shape)),
  )
  tail = count(stack.net, hidden.shape[1:])
  return count(stem, info.image_shape), tail
