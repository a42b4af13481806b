"""Checks of a method with a few steps of training."""

import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from okd_jax import core, groups, layers, training, trees
from okd_jax.backbones.hourglass import Hourglass
from okd_jax.backbones.network import Network
from okd_jax.data.info import DataInfo
from okd_jax.data.keypoints.info import KeypointInfo
from okd_jax.devices import mesh as mesh_lib
from okd_jax.tasks import classification, keypoints
from okd_jax.tasks.task import Task
from okd_jax.testing import _float64, _outputs
from okd_jax.testing._checks import name_of

NUM_PEERS, NUM_CLASSES, BATCH_SIZE, NUM_EXAMPLES = 4, 5, 16, 64
IMAGE_SHAPE = (6, 6, 1)
# Devices of the batch times devices of the peers; the first is the reference.
MESHES = ((1, 1), (2, 2))
STEPS = 3


class TooFewDevices(RuntimeError):
  """There are too few devices here to compare meshes."""


class Toy(Network):
  """Two convolutions with batch norm, dropout, and a linear classifier."""

  split: int = 1
  width: int = 8

  @nn.compact
  def __call__(self, x, *, train):
    maps = []
    if self.part != "tail":
      x = self._convolve(x, "stage1", self.width // 2, train)
      maps.append(x)
    if self.part == "trunk":
      return x
    x = self._convolve(x, "stage2", self.width, train)
    maps.append(x)
    features = jnp.mean(x, (-3, -2))
    hidden = nn.Dropout(0.25)(features, deterministic=not train)
    logits = nn.Dense(self.num_classes, dtype=self.dtype, name="head")(hidden)
    return core.Outputs(logits, features, tuple(maps))

  def _convolve(self, x, name, width, train):
    x = nn.Conv(
      width, (3, 3), use_bias=False, dtype=self.dtype, name=f"{name}_conv"
    )(x)
    norm = layers.BatchNorm(name=f"{name}_norm")
    return nn.relu(norm(x, use_running_average=not train))


def meshes_agree(method: core.Method) -> None:
  """In float64 a few steps on any mesh give the result of one device.

  Of a method that casts to narrower floats they give nearly that.
  """
  needed = max(data * peer for data, peer in MESHES)
  if len(jax.devices()) < needed:
    raise TooFewDevices(
      f"meshes are compared on {needed} devices, and {len(jax.devices())} are "
      'here; call jax.config.update("jax_num_cpu_devices", 4) before JAX '
      "computes anything."
    )
  expected = _whole(method)
  allowed = _float64.ROUNDED if _float64.rounds(method) else 1e-9
  for data, peer in MESHES[1:]:
    with jax.enable_x64(True):
      found = _train(_step(method, data, peer), _start(method))
    for (leaf, value), wanted in zip(
      trees.named(found), jax.tree.leaves(expected), strict=True
    ):
      if not np.allclose(value, wanted, rtol=allowed, atol=allowed):
        raise AssertionError(
          f"{name_of(method)} ends elsewhere on {data} x {peer} devices than "
          f"on one: {leaf}. Use whole arrays as they "
          "come, and draw random numbers of whole batches by ctx.key."
        )


def goes_on_exactly(method: core.Method) -> None:
  """Training goes on exactly from a state that was copied to the host."""
  whole = _whole(method)
  with jax.enable_x64(True):
    step = _step(method, *MESHES[0])
    half = _train(step, _start(method), first=0, last=1)
    resumed = _train(step, half[0], first=1)
  for a, b in zip(
    jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True
  ):
    if not np.array_equal(a, b, equal_nan=True):
      raise AssertionError(
        f"{name_of(method)} does not go on where it stopped; keep everything "
        "that a step depends on in variables, none of it in attributes."
      )


@dataclasses.dataclass(frozen=True)
class _Maps(keypoints.Task):
  """Keypoints whose batches hold heat maps and float images already."""

  def augment(self, batch, key, *, num_views, mesh):
    return batch


def net_of(method: core.Method, dtype: Any = None) -> nn.Module:
  """A small network of the kind that the method needs."""
  if _outputs.of_maps(method):
    return Hourglass(
      NUM_CLASSES, split=1, stacks=2, width=8, depth=1, dtype=dtype
    )
  return Toy(NUM_CLASSES, dtype=dtype)


def _task(method: core.Method, dtype: Any) -> Task:
  if not _outputs.of_maps(method):
    return classification.Task(NUM_CLASSES, IMAGE_SHAPE, image_dtype=dtype)
  info = DataInfo(
    name="maps",
    num_classes=NUM_CLASSES,
    image_shape=(8, 8, 3),
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
    pad=0,
    flip=False,
    num_train=NUM_EXAMPLES,
    num_test=0,
    class_names=tuple("abcde"),
    task="keypoints",
    keypoints=KeypointInfo(pairs=(), bones=(), sigmas=()),
  )
  return _Maps(info, dtype)


def setup_of(
  method: core.Method,
  data: int = 1,
  peer: int = 1,
  *,
  dtype: Any = jnp.float32,
  net: nn.Module | None = None,
) -> training.Setup:
  """A run of the method on small networks."""
  net = net or net_of(method)
  mesh = mesh_lib.make_mesh(data, peer)
  if method.needs.kind == "branches":
    peers = groups.branches(
      net, NUM_PEERS, mesh, "vmap", method.needs.trunk_gradient
    )
  else:
    peers = groups.replicas(net, NUM_PEERS, mesh, "vmap")
  teacher = None
  if method.needs.teacher:
    alone = mesh_lib.without_peer_axis(mesh)
    teacher = groups.replicas(net, 1, alone, "vmap")
  return training.Setup(
    peers=peers,
    method=method,
    task=_task(method, dtype),
    optimizer=optax.sgd(0.05, momentum=0.9),
    batch_size=BATCH_SIZE,
    train_size=NUM_EXAMPLES,
    epochs=4,
    rampup_epochs=1,
    teacher=teacher,
  )


@functools.cache
def _start(method: core.Method) -> Any:
  """The initial state on the host, in float64."""
  state = training.init(
    setup_of(method, *MESHES[0], dtype=jnp.float64), jax.random.key(0)
  )
  return jax.tree.map(lambda leaf: _cast(np.asarray(leaf), jnp.float64), state)


@functools.cache
def _step(method: core.Method, data: int, peer: int) -> tuple[Any, Any, Any]:
  """A setup in float64, the shardings of its state, and its compiled step."""
  setup = setup_of(method, data, peer, dtype=jnp.float64)
  where = training.shardings(setup, _start(method))
  step = jax.jit(
    functools.partial(training.train_step, setup),
    out_shardings=(where, None),
    compiler_options=_outputs.QUICK,
  )
  return setup, where, step


@functools.cache
def _whole(method: core.Method) -> Any:
  """The result of some steps on one device."""
  with jax.enable_x64(True):
    return _train(_step(method, *MESHES[0]), _start(method))


def _train(
  compiled: tuple[Any, Any, Any], start: Any, first: int = 0, last: int = STEPS
) -> Any:
  """Host copies of the state and the measures after some steps."""
  setup, where, step = compiled
  state = mesh_lib.place(start, where)
  for i in range(first, last):
    state, measured = step(*arguments_of(setup, state, i))
  return jax.device_get((state, measured))


def arguments_of(setup: training.Setup, state: Any, seed: int = 0) -> Any:
  """Arguments of a step: state, batch, key, teacher, labels of all examples."""
  rng = np.random.default_rng(seed)
  views = (NUM_PEERS,) if setup.method.needs.views else ()
  image_shape = setup.task.blank(1).image.shape[1:]
  image = rng.normal(size=(*views, BATCH_SIZE, *image_shape))
  all_labels = np.random.default_rng(7).integers(0, NUM_CLASSES, NUM_EXAMPLES)
  index = rng.permutation(NUM_EXAMPLES)[:BATCH_SIZE]
  target = jnp.asarray(all_labels[index], jnp.int32)
  if _outputs.of_maps(setup.method):
    blank = setup.task.blank(BATCH_SIZE).target
    target = jax.tree.map(
      lambda x: jnp.asarray(rng.random(x.shape), setup.image_dtype), blank
    )
  batch = core.Batch(
    image=jnp.asarray(image, setup.image_dtype),
    target=target,
    index=jnp.asarray(index, jnp.int32),
    mask=jnp.ones(BATCH_SIZE, bool),
  )
  teacher, labels = None, None
  if setup.teacher is not None:
    drawn = setup.teacher.init(jax.random.key(7), setup.example_images())
    teacher = jax.tree.map(
      lambda leaf: _cast(np.asarray(leaf), setup.image_dtype), drawn
    )
  if setup.method.needs.train_labels:
    labels = np.full(setup.num_examples, -1, np.int32)
    labels[:NUM_EXAMPLES] = all_labels
  return state, batch, jax.random.key(1), teacher, labels


def _cast(leaf: Any, dtype: Any) -> Any:
  floating = jnp.issubdtype(leaf.dtype, jnp.floating)
  return leaf.astype(dtype) if floating else leaf
