"""A small network and recipe for tests of everything above the networks."""

from collections.abc import Sequence
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax import core, groups, layers, methods
from okd_jax.backbones.hourglass import Hourglass
from okd_jax.backbones.network import Network
from okd_jax.data.info import DataInfo
from okd_jax.devices.mesh import make_mesh, without_peer_axis
from okd_jax.tasks import classification
from okd_jax.training.optim import Optim
from okd_jax.training.schedule import MULTISTEP, Schedule
from okd_jax.training.setup import Setup, with_optim

INFO = DataInfo(
  name="toy",
  num_classes=5,
  image_shape=(6, 6, 1),
  mean=(0.4,),
  std=(0.3,),
  pad=1,
  flip=True,
  num_train=64,
  num_test=16,
  class_names=tuple("abcde"),
)


# Methods that toy data are for.
OF_CLASSES = [
  name
  for name in methods.names()
  if classification.Task.name in methods.make(name).tasks
]


# Some that differ in what they remember, see and share; the others are slow.
SOME = ("kd", "kdcl", "mcl_okd", "okddip", "pcl", "switokd")
SOME_FIRST = [
  name if name in SOME else pytest.param(name, marks=pytest.mark.slow)
  for name in OF_CLASSES
]


class Toy(Network):
  """Two convolutions with batch norm, dropout, and a linear classifier."""

  split: int = 1
  width: int = 8
  dropout: float = 0.25

  @nn.compact
  def __call__(self, x, *, train):
    maps = []
    if self.part != "tail":
      x = self._stage(x, "stage1", self.width // 2, train)
      maps.append(x)
    if self.part == "trunk":
      return x
    x = self._stage(x, "stage2", self.width, train)
    maps.append(x)
    features = jnp.mean(x, (-3, -2))
    hidden = nn.Dropout(self.dropout)(features, deterministic=not train)
    logits = nn.Dense(self.num_classes, dtype=self.dtype, name="head")(hidden)
    return core.Outputs(logits, features, tuple(maps))

  def _stage(self, x, name, width, train):
    x = nn.Conv(
      width, (3, 3), use_bias=False, dtype=self.dtype, name=f"{name}_conv"
    )(x)
    norm = layers.BatchNorm(name=f"{name}_norm")
    return nn.relu(norm(x, use_running_average=not train))


# On images of 16 x 16, with heat maps of 4 x 4.
hourglass = functools.partial(Hourglass, split=1, stacks=2, width=8, depth=1)


class Quick(nn.Module):
  """Two linear layers, which compile at once."""

  num_classes: int = INFO.num_classes

  @nn.compact
  def __call__(self, x, *, train):
    del train
    features = nn.tanh(nn.Dense(8, name="hidden")(x.reshape(x.shape[0], -1)))
    return nn.Dense(self.num_classes, name="head")(features), features


def recipe(
  method: str | core.Method = "okddip",
  *,
  kind: str = "replicas",
  data: int = 1,
  peer: int = 1,
  num_peers: int = 4,
  net: nn.Module | None = None,
  mapping: str = "unroll",
  dtype: Any = jnp.float32,
  info: DataInfo = INFO,
  sgd: Optim | None = None,
  schedule: Schedule = MULTISTEP,
  devices: Sequence[jax.Device] | None = None,
  **changes: Any,
) -> Setup:
  """A setup for the toy network on `data` x `peer` devices."""
  if isinstance(method, str):
    method = methods.make(method)
  net = net or Toy(info.num_classes)
  mesh = make_mesh(data, peer, devices)
  if kind == "branches":
    peers = groups.branches(
      net, num_peers, mesh, mapping, method.needs.trunk_gradient
    )
  else:
    peers = groups.replicas(net, num_peers, mesh, mapping)
  teacher = None
  if method.needs.teacher:
    teacher = groups.replicas(net, 1, without_peer_axis(mesh))
  fields: dict[str, Any] = {
    "peers": peers,
    "method": method,
    "task": classification.Task.of(info, image_dtype=dtype),
    "teacher": teacher,
    "epochs": 4,
    "batch_size": 16,
    "train_size": 40,
    "rampup_epochs": 1,
    "num_positions": INFO.num_train,
  }
  settings = sgd or Optim(learning_rate=0.1)
  return with_optim(settings, schedule, **fields | changes)


def batch(seed: int, size: int = 16) -> core.Batch:
  """Random images and labels."""
  rng = np.random.default_rng(seed)
  return core.Batch(
    image=rng.integers(0, 256, (size, *INFO.image_shape), dtype=np.uint8),
    target=rng.integers(0, INFO.num_classes, size).astype(np.int32),
    index=np.arange(size, dtype=np.int32),
    mask=np.ones(size, bool),
  )


def widen(tree: Any) -> Any:
  """Casts floats to float64."""
  return jax.tree.map(
    lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree
  )
