"""Programs compiled for TPUs that are not there, and what is said of them.

`libtpu` compiles for any slice without a chip. Whoever imports this module must
have called `prepare` before JAX was imported.
"""

import collections
import dataclasses
import functools
import os
import re
import time
from typing import Any


@dataclasses.dataclass(frozen=True)
class Chip:
  """What a chip does in a second.

  From https://cloud.google.com/tpu/docs/v5e and the pages of v5p and v6e beside
  it. The clock follows from the peak of v5e and v5p: each of the four or eight
  arrays makes 128 x 128 multiply-adds a cycle.

  Attributes:
    flops: in bfloat16.
    hbm: bytes from and to its memory.
    links: bits to other chips.
    clock: cycles; None where it does not follow.
  """

  flops: float
  hbm: float
  links: float
  clock: float | None


CHIPS = {
  "v5e": Chip(197e12, 819e9, 1600e9, 197e12 / (4 * 128 * 128 * 2)),
  "v5p": Chip(459e12, 2765e9, 4800e9, 459e12 / (8 * 128 * 128 * 2)),
  "v6e": Chip(918e12, 1600e9, 3200e9, None),
}
PLAIN = "plain"
# What `libtpu` would look for on a machine with TPUs, of which it lets one
# process alone have a chip.
ENVIRONMENT = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  # Programs for absent chips can be written to the cache and not read.
  "JAX_ENABLE_COMPILATION_CACHE": "false",
  "JAX_PLATFORMS": "cpu",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}


@dataclasses.dataclass(frozen=True)
class Program:
  """A training step to compile.

  Attributes:
    topology: a slice, "v5e:2x2".
    mesh: devices on data x peer, the first of the slice.
    method: of this software, or "plain" for `benchmarks.plain_linen`.
    net: a network by name.
    kind: "replicas" or "branches".
    peers: how many.
    batch: over all devices.
    mapping: "vmap" or "unroll".
    precision: "bf16" or "f32".
    steps: in one call: 1, as where batches come from the host, or the length of
      the loop that gathers them from a data set in the chips' memory.
  """

  topology: str = "v5e:2x2"
  mesh: tuple[int, int] = (1, 1)
  method: str = "okddip"
  net: str = "resnet32"
  kind: str = "replicas"
  peers: int = 4
  batch: int = 128
  mapping: str = "vmap"
  precision: str = "bf16"
  steps: int = 1


def prepare() -> None:
  """Lets `libtpu` compile where there is no TPU; call before importing JAX."""
  os.environ |= ENVIRONMENT


def compile_program(program: Program, devices: Any = None) -> tuple[Any, float]:
  """Compiles a training step; returns it and the seconds that took.

  Args:
    program: what to compile.
    devices: to compile for; by default those of the program's slice.
  """
  step, arguments = make(program, devices or devices_of(program.topology))
  began = time.monotonic()
  return step.lower(*arguments).compile(), time.monotonic() - began


def facts(program: Program, compiled: Any, seconds: float) -> dict[str, Any]:
  """What the compiler says of a program, on one device and in one step.

  `bytes` are those of all memories, `hbm` those of the slow one. `roofline_ms`
  is the longest of what operations, HBM and, for collectives, links would take
  by themselves at their peak. `cycles` are what the compiler expects its
  instructions to take, each by itself, and `estimated_ms` the longer of those
  and the roofline; `optimal_seconds` of JAX is negative at times and not used.
  """
  from benchmarks import hbm
  from benchmarks.collectives import collectives

  text = compiled.as_text()
  cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
  sent = collections.Counter[str]()
  kinds = collections.Counter[str]()
  for each in collectives(compiled):
    kinds[each.kind] += 1
    sent[each.kind] += each.size
  slow = hbm.moved(text)
  chip = CHIPS[program.topology.partition(":")[0]]
  times = {
    "operations": cost["flops"] / chip.flops,
    "memory": slow / chip.hbm,
    "links": 8 * sum(sent.values()) / chip.links,
  }
  cycles = sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', text)))
  slowest = max(times, key=lambda name: times[name])
  return dataclasses.asdict(program) | {
    "bytes": cost["bytes accessed"],
    "hbm": slow,
    "flops": cost["flops"],
    "temporaries": memory.temp_size_in_bytes,
    "arguments": memory.argument_size_in_bytes,
    "code": memory.generated_code_size_in_bytes,
    "collectives": dict(kinds),
    "collective_bytes": dict(sent),
    "copies": _count(text, "copy"),
    "transposes": _count(text, "transpose"),
    "compile_seconds": seconds,
    "cycles": cycles,
    "estimated_ms": 1e3 * max(times[slowest], cycles / chip.clock)
    if chip.clock
    else None,
    "roofline_ms": 1e3 * times[slowest],
    "bound_by": slowest,
    "images_per_second": program.batch / times[slowest],
  }


def _count(text: str, operation: str) -> int:
  """How often an operation is in a program, fused or not."""
  return len(re.findall(rf"\s{operation}(?:-start)?\(", text))


def _info(net: str) -> Any:
  """CIFAR-100, or ImageNet for networks that are made for it."""
  from benchmarks import setting
  from okd_jax import backbones

  shape = getattr(backbones.make(net, 2), "image_shape", (32, 32, 3))
  if shape == setting.INFO.image_shape:
    return setting.INFO
  return dataclasses.replace(
    setting.INFO,
    name="imagenet",
    num_classes=1000,
    image_shape=shape,
    num_train=1_281_167,
    num_test=50_000,
    resized_crop=True,
  )


def step_of(setup: Any, batch: Any) -> tuple[Any, tuple[Any, ...]]:
  """The training step of a setup, jitted, and shapes of what it takes.

  Args:
    setup: its mesh may be of devices that are not there.
    batch: arrays or shapes, as they come from the host.
  """
  import jax

  from okd_jax.training import state as state_lib, step as steps

  state = state_lib.abstract(setup, jax.random.key(0))
  batch = _shaped(setup.mesh, batch, "data")
  step = jax.jit(
    functools.partial(steps.train_step, setup),
    donate_argnums=0,
    out_shardings=(state_lib.shardings(setup, state), None),
  )
  return step, (state, batch, *_taught_with(setup))


def loop_of(setup: Any, batch: Any, steps: int) -> tuple[Any, tuple[Any, ...]]:
  """As `step_of`, for a loop over a data set in the chips' memory.

  Args:
    setup: see `step_of`.
    batch: likewise; its examples are like those of the data set.
    steps: at most in one call.
  """
  import jax
  import jax.numpy as jnp

  from okd_jax.data.sources.flat import Flat
  from okd_jax.training import chunk, state as state_lib, step as step_lib

  state = state_lib.abstract(setup, jax.random.key(0))
  rest = _taught_with(setup)
  step_fn = jax.jit(functools.partial(step_lib.train_step, setup))
  split = _shaped(setup.mesh, batch, "data")
  sums = chunk.measures_like(step_fn, state, split, *rest)
  count = setup.num_examples

  def whole(leaf):
    return jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype)

  taken = (
    sums,
    jax.eval_shape(Flat.of, whole(batch.image)),
    jax.tree.map(whole, batch.target),
    jax.ShapeDtypeStruct((steps, setup.batch_size), jnp.int32),
    jax.ShapeDtypeStruct((), jnp.int32),
  )
  everywhere = jax.NamedSharding(setup.mesh, jax.P())
  loop = jax.jit(
    functools.partial(chunk.many_steps, setup, step_fn),
    donate_argnums=(0, 1),
    out_shardings=(state_lib.shardings(setup, state), everywhere),
  )
  return loop, (state, *_shaped(setup.mesh, taken), *rest)


def _taught_with(setup: Any) -> tuple[Any, Any, Any]:
  """Shapes of the key, of teachers and of all labels, where they are needed."""
  import jax
  import jax.numpy as jnp

  key = jax.eval_shape(lambda: jax.random.key(0))
  teacher = labels = None
  if setup.teacher is not None:
    teacher = jax.eval_shape(
      setup.teacher.init, jax.random.key(0), setup.example_images()
    )
  if setup.method.needs.train_labels:
    labels = jax.ShapeDtypeStruct((setup.num_examples,), jnp.int32)
  return _shaped(setup.mesh, (key, teacher, labels))


def _shaped(mesh: Any, tree: Any, *axes: str) -> Any:
  """Shapes of arrays on a mesh, their first axes split over its `axes`."""
  import jax

  where = jax.NamedSharding(mesh, jax.P(*axes))
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
    tree,
  )


def devices_of(topology: str) -> Any:
  """The devices of a slice, to be compiled for only."""
  from jax.experimental import topologies

  return topologies.get_topology_desc(
    platform="tpu", topology_name=topology
  ).devices


def make(program: Program, devices: Any) -> tuple[Any, tuple[Any, ...]]:
  """The jitted step, or loop, and shapes of what it takes."""
  if program.method == PLAIN:
    return _plain(program, devices)
  from benchmarks import setting

  data, peer = program.mesh
  info = _info(program.net)
  setup = setting.recipe(
    program.method,
    program.net,
    program.kind,
    program.peers,
    program.batch,
    program.precision,
    mapping=program.mapping,
    data=data,
    peer=peer,
    info=info,
    devices=devices,
  )
  batch = setting.random_batch(program.batch, info)
  if program.steps > 1:
    return loop_of(setup, batch, program.steps)
  return step_of(setup, batch)


def _plain(program: Program, devices: Any) -> tuple[Any, tuple[Any, ...]]:
  import jax
  import jax.numpy as jnp

  from benchmarks import plain_linen
  from okd_jax import backbones
  from okd_jax.devices import mesh as mesh_lib

  info = _info(program.net)
  dtype = jnp.bfloat16 if program.precision == "bf16" else jnp.float32
  like = backbones.make(program.net, info.num_classes)
  network = plain_linen.Network(like, dtype)
  mesh = mesh_lib.make_mesh(*program.mesh, devices)

  state = jax.eval_shape(lambda: plain_linen.init(network, info, program.peers))
  images = jax.ShapeDtypeStruct((program.batch, *info.image_shape), jnp.uint8)
  labels = jax.ShapeDtypeStruct((program.batch,), jnp.int32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  step = jax.jit(
    functools.partial(plain_linen.train_step, network, info), donate_argnums=0
  )
  return step, (
    _shaped(mesh, state, "peer"),
    *_shaped(mesh, (images, labels), "data"),
    _shaped(mesh, key),
  )
