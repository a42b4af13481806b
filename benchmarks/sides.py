"""The two sides of `benchmarks.train_step`, each run in a process of its own.

A side is ready for its first step when it is made; `run(n)` makes n steps and
returns the seconds they took. The same uint8 images are augmented and learned
from every time.
"""

import argparse
import functools
import json
import os
import resource
import sys
import time
from typing import Any, Protocol

import numpy as np

# Dense peak of operations a second, by device and precision. Both sides let
# float32 products run as TF32 where the device has it.
PEAKS = {
  "NVIDIA H200": {"f32": 494.7e12, "bf16": 989.4e12},
  "NVIDIA H100 80GB HBM3": {"f32": 494.7e12, "bf16": 989.4e12},
  "NVIDIA A100-SXM4-80GB": {"f32": 156e12, "bf16": 312e12},
}


class Side(Protocol):
  """What is measured."""

  about: dict[str, Any]

  def run(self, num_steps: int) -> float: ...


class JaxSide:
  """Our step; with `chunk`, many steps a call, as on accelerators."""

  def __init__(self, args: argparse.Namespace, began: float, *, chunk: bool):
    import jax
    import jax.numpy as jnp

    from benchmarks import setting
    from okd_jax.data.sources.flat import Flat
    from okd_jax.devices import mesh
    from okd_jax.training import (
      autotune,
      chunk as chunk_lib,
      measures as measures_lib,
      state as state_lib,
    )
    from okd_jax.training.step import train_step

    imported = time.monotonic()
    recipe = setting.recipe(
      args.method,
      args.net,
      args.kind,
      args.peers,
      args.batch,
      args.precision,
      mapping=args.mapping,
      data=args.mesh[0],
      peer=args.mesh[1],
    )
    recipe = autotune.choose_mapping(recipe)
    state = setting.state(recipe)
    jax.block_until_ready(state)
    batch, key = setting.batch_and_key(recipe)
    step_fn = jax.jit(functools.partial(train_step, recipe))
    self._chunk = chunk
    if chunk:
      rows = jnp.tile(jnp.arange(args.batch), (512, 1))
      self._args = (Flat.of(batch.image), batch.target, rows, jnp.int32(1), key)
      program = functools.partial(chunk_lib.many_steps, recipe)
    else:
      self._args = (batch, key)
      program = chunk_lib.one_step
    everywhere = jax.NamedSharding(recipe.mesh, jax.P())
    step = jax.jit(
      functools.partial(program, step_fn),
      donate_argnums=(0, 1),
      out_shardings=(
        state_lib.shardings(recipe, state),
        everywhere,
      ),
    )
    initialised = time.monotonic()
    measures = chunk_lib.measures_like(step_fn, state, batch, key)
    sums = measures_lib.from_json({}, measures)[0]
    self._sums = mesh.place(sums, jax.tree.map(lambda _: everywhere, sums))
    traced = step.trace(state, self._sums, *self._args)
    at_trace = time.monotonic()
    lowered = traced.lower()
    at_lower = time.monotonic()
    self._step = lowered.compile()
    at_compile = time.monotonic()
    self._state = state
    self.run(1)
    now = time.monotonic()
    self._device = jax.devices()[0]
    trunk, tail = setting.multiply_adds(recipe)
    self.about = {
      "seconds": {
        "import": imported - began,
        "init": initialised - imported,
        "trace": at_trace - initialised,
        "lower": at_lower - at_trace,
        "compile": at_compile - at_lower,
        "first_step": now - at_compile,
        "total": now - began,
      },
      "version": jax.__version__,
      "device": self._device.device_kind,
      "multiply_adds": trunk + args.peers * tail,
    }

  def run(self, num_steps: int) -> float:
    """Makes steps and returns their seconds."""
    import jax
    import jax.numpy as jnp

    done = 0
    args = self._args
    began = time.monotonic()
    while done < num_steps:
      count = min(512, num_steps - done) if self._chunk else 1
      if self._chunk:
        args = (*args[:3], jnp.int32(count), *args[4:])
      self._state, self._sums = self._step(self._state, self._sums, *args)
      done += count
    jax.block_until_ready((self._state, self._sums))
    return time.monotonic() - began

  def peak_bytes(self) -> int:
    """Most memory in use on the device so far; 0 if it does not say."""
    stats = self._device.memory_stats() or {}
    return stats.get("peak_bytes_in_use", 0)


class TorchSide:
  """The reference: eager, channels-last, or compiled (then channels-last)."""

  def __init__(self, args: argparse.Namespace, began: float, *, mode: str):
    import torch

    from benchmarks import torch_reference
    from okd_jax.data.info import KNOWN

    imported = time.monotonic()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    self._torch = torch
    self._cuda = torch.cuda.is_available()
    device = torch.device("cuda" if self._cuda else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    layout = torch.contiguous_format if mode == "eager" else torch.channels_last
    info = KNOWN["cifar100"]
    self._trainer = torch_reference.make(
      args.method, args.net, args.kind, args.peers, info.num_classes
    )
    self._trainer.to(device, layout)
    rng = np.random.default_rng(0)
    height, width, channels = info.image_shape
    self._images = torch.tensor(
      rng.integers(0, 256, (args.batch, channels, height, width), np.uint8)
    ).to(device)
    self._labels = torch.tensor(
      rng.integers(0, info.num_classes, args.batch)
    ).to(device)
    self._weight = torch.tensor(torch_reference.rampup(0), device=device)
    self._mean, self._std = (
      torch.tensor(x, device=device)[:, None, None]
      for x in (info.mean, info.std)
    )
    self._views = args.peers if args.method == "pcl" else None
    self._layout = layout
    self._bf16 = args.precision == "bf16"
    self._augment = torch_reference.augment
    if mode == "compiled":
      # On CUDA this mode records and replays CUDA graphs.
      options = {"mode": "reduce-overhead"} if self._cuda else {}
      self._trainer.loss = torch.compile(self._trainer.loss, **options)
      self._augment = torch.compile(self._augment)
    initialised = time.monotonic()
    self.run(1)
    now = time.monotonic()
    self.about = {
      "seconds": {
        "import": imported - began,
        "init": initialised - imported,
        "first_step": now - initialised,
        "total": now - began,
      },
      "version": torch.__version__,
      "device": torch.cuda.get_device_name() if self._cuda else "cpu",
    }

  def run(self, num_steps: int) -> float:
    """Makes steps and returns their seconds."""
    torch = self._torch
    began = time.monotonic()
    for _ in range(num_steps):
      images = self._seen()
      with torch.autocast(
        self._images.device.type, torch.bfloat16, enabled=self._bf16
      ):
        self._trainer.step(images, self._labels, self._weight)
    if self._cuda:
      torch.cuda.synchronize()
    return time.monotonic() - began

  def _seen(self):
    if self._views is None:
      images = self._augment(self._images, self._mean, self._std)
      return images.contiguous(memory_format=self._layout)
    return self._torch.stack(
      [
        self._augment(self._images, self._mean, self._std)
        for _ in range(self._views)
      ]
    )

  def peak_bytes(self) -> int:
    """Most memory in use on the device so far; 0 on CPU."""
    return self._torch.cuda.max_memory_allocated() if self._cuda else 0


SIDES = {
  "jax": functools.partial(JaxSide, chunk=False),
  "jax chunk": functools.partial(JaxSide, chunk=True),
  "torch": functools.partial(TorchSide, mode="eager"),
  "torch channels-last": functools.partial(TorchSide, mode="channels_last"),
  "torch compiled": functools.partial(TorchSide, mode="compiled"),
}


def serve(args: argparse.Namespace, began: float) -> None:
  """Runs as many steps as each line of standard input says, until it ends."""
  # Replies go where the parent listens; whatever else prints does not.
  replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
  side = SIDES[args.worker](args, began)
  print(json.dumps(side.about), file=replies, flush=True)
  for line in sys.stdin:
    reply = {
      "seconds": side.run(int(line)),
      # Linux counts in KiB.
      "host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
      "device_bytes": side.peak_bytes(),
    }
    print(json.dumps(reply), file=replies, flush=True)
