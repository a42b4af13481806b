"""Every method's step, compiled for TPUs; needs libtpu and no TPU."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import hbm, tpu_program
from benchmarks.collectives import collectives
from benchmarks.tpu_program import Program
from okd_jax import methods
from okd_jax.data.keypoints.figures import Joints
from okd_jax.data.keypoints.info import KeypointInfo
from okd_jax.tasks import classification, keypoints
import toys

pytestmark = pytest.mark.tpu

OF_JOINTS = dataclasses.replace(
  toys.INFO,
  image_shape=(16, 16, 3),
  mean=(0.5,) * 3,
  std=(0.3,) * 3,
  task="keypoints",
  keypoints=KeypointInfo(
    pairs=(), bones=(), sigmas=(), mean_pose=((8.0, 8.0),) * 5
  ),
)


@pytest.fixture(scope="module")
def devices():
  with pytest.MonkeyPatch.context() as patch:
    for name, value in tpu_program.ENVIRONMENT.items():
      patch.setenv(name, value)
    # Programs for absent chips can be written to the cache and not read.
    jax.config.update("jax_enable_compilation_cache", False)
    yield tpu_program.devices_of("v5e:2x2")
    jax.config.update("jax_enable_compilation_cache", True)


def assert_updates_in_place(compiled, state):
  size = sum(
    leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
    for leaf in jax.tree.leaves(state)
  )
  assert compiled.memory_analysis().alias_size_in_bytes >= size


def joints(size=16):
  each = {
    field.name: np.ones(size, np.float32)
    for field in dataclasses.fields(Joints)
  }
  each |= {
    "points": np.ones((size, 5, 2), np.float32),
    "visible": np.ones((size, 5), np.int32),
    "center": np.ones((size, 2), np.float32),
    "box": np.ones((size, 4), np.float32),
    "beside": np.ones((size, 2, 6), np.float32),
    "image_id": np.ones(size, np.int32),
  }
  return dataclasses.replace(
    toys.batch(0),
    image=np.zeros((size, *OF_JOINTS.image_shape), np.uint8),
    target=Joints(**each),
  )


class Maps(keypoints.Task):
  """Keypoints whose batches hold float images and heat maps already."""

  def augment(self, batch, key, *, num_views, mesh):
    return batch


def compiled(method, task, batch, devices):
  """A toy group's step on 2x2 chips, and the state that it takes."""
  net = toys.Toy if method.task == "classification" else toys.hourglass
  setup = toys.recipe(
    method,
    kind=method.needs.kind or "replicas",
    data=2,
    peer=2,
    mapping="vmap",
    devices=devices,
    net=net(toys.INFO.num_classes, dtype=jnp.bfloat16),
    task=task,
  )
  step, arguments = tpu_program.step_of(setup, batch)
  return step.lower(*arguments).compile(), arguments[0]


@pytest.mark.parametrize("name", methods.names())
def test_every_method_compiles(name, devices):
  method = methods.make(name)
  if method.task == "classification":
    task, batch = classification.Task.of(toys.INFO), toys.batch(0)
  else:
    task = Maps.of(OF_JOINTS)
    batch = task.blank(16)
  program, state = compiled(method, task, batch, devices)
  assert_updates_in_place(program, state)
  assert any(each.kind == "all-reduce" for each in collectives(program))
  assert hbm.moved(program.as_text()) > 0


def test_a_loop_of_steps_neither_copies_its_data_nor_its_state(devices):
  shape, count = (16, 16, 3), 40_000
  info = dataclasses.replace(
    toys.INFO,
    image_shape=shape,
    num_train=count,
    mean=(0.5,) * 3,
    std=(0.3,) * 3,
  )
  setup = toys.recipe(
    data=2,
    peer=2,
    mapping="vmap",
    devices=devices,
    train_size=count,
    num_positions=count,
    task=classification.Task.of(info),
  )
  batch = dataclasses.replace(
    toys.batch(0), image=np.zeros((setup.batch_size, *shape), np.uint8)
  )
  loop, arguments = tpu_program.loop_of(setup, batch, 16)
  program = loop.lower(*arguments).compile()
  assert_updates_in_place(program, arguments[:2])
  memory = program.memory_analysis()
  data_set = count * math.prod(shape)
  assert memory.argument_size_in_bytes > data_set
  assert memory.temp_size_in_bytes < data_set / 4


@pytest.mark.slow
def test_keypoints_compile(devices):
  task = keypoints.Task.of(OF_JOINTS)
  program, state = compiled(methods.make("okdhp"), task, joints(), devices)
  assert_updates_in_place(program, state)


@pytest.mark.slow
@pytest.mark.parametrize(
  "program",
  [
    Program(method=tpu_program.PLAIN, peers=1),
    Program(),
    Program(kind="branches"),
    Program(mesh=(1, 4)),
    Program(net="resnet110"),
    Program(net="wrn20_8"),
    Program(net="resnet34", mesh=(4, 1)),
  ],
  ids=str,
)
def test_networks_of_papers_compile(program, devices):
  del devices
  found = tpu_program.facts(program, *tpu_program.compile_program(program))
  assert found["hbm"] <= found["bytes"]
  assert found["images_per_second"] > 0
