"""Chooses the faster form of a group's program by a short measurement."""

from collections.abc import Callable
import contextlib
import dataclasses
import hashlib
import json
import logging
import math
from pathlib import Path
import statistics
import time
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp

from okd_jax.core import Array
from okd_jax.devices import mesh as mesh_lib
from okd_jax.groups import Group
from okd_jax.groups.layout import without_params
from okd_jax.storage import files, paths
from okd_jax.training.setup import Setup

_log = logging.getLogger(__name__)
_CANDIDATES = ("unroll", "vmap")
_WARM_UP, _ROUNDS = 2, 7


def choose_mapping(setup: Setup, cache: Path | None = None) -> Setup:
  """Replaces the mapping "auto" of a setup by the faster one.

  On CPU "unroll" is known to be faster. Elsewhere the forward and backward pass
  of the peers of one device is timed in both forms, once for every kind of
  device, network, number of peers and batch.

  Args:
    setup: setup of a run.
    cache: folder that keeps the times; one of this user by default.

  Returns:
    The setup, with "unroll" or "vmap" for "auto"; the same in all processes.
    Different networks cannot be mapped together, and are left as they are.
  """
  group = setup.peers
  if not group.equal or group.mapping != "auto":
    return setup
  device = setup.mesh.devices.flat[0]
  if device.platform == "cpu":
    choice = "unroll"
  else:
    seconds = _kept(setup, group, cache or paths.cache("mappings"))
    choice = (
      "vmap" if _agreed(seconds["vmap"] < seconds["unroll"]) else "unroll"
    )
  return dataclasses.replace(
    setup, peers=dataclasses.replace(group, mapping=choice)
  )


def measure(group: Group, images: Array) -> dict[str, float]:
  """Times forward and backward pass of a group.

  Args:
    group: a group on a mesh of one device.
    images: float [B, H, W, c], on that device.

  Returns:
    Median seconds of every mapping; infinity for "vmap" if it fails, as of a
    network that `jax.vmap` cannot map.
  """
  key = jax.random.key(0)
  variables = group.init(key, images[:1])

  def timed(mapping):
    mapped = dataclasses.replace(group, mapping=mapping)
    return _seconds(_pass(mapped, key), variables, images)

  seconds = {"unroll": timed("unroll")}
  try:
    seconds["vmap"] = timed("vmap")
  except Exception as error:  # of JAX or of the network, whatever it is
    _log.warning("The peers are unrolled, as mapping=vmap fails: %s", error)
    seconds["vmap"] = math.inf
  return seconds


def _kept(setup: Setup, group: Group, cache: Path) -> dict[str, float]:
  """Seconds for the peers of one device, from the cache or measured.

  Only the first process of a run measures; in others all times are zero.
  """
  if jax.process_index() != 0:
    return dict.fromkeys(_CANDIDATES, 0.0)
  device = jax.local_devices()[0]
  shape = setup.mesh.shape
  alone = group.on_one_device(device)
  size = setup.batch_size // setup.accumulate // shape[mesh_lib.DATA]
  images = setup.task.blank(size).image
  about = (
    repr(alone.stem),
    repr(alone.stacks),
    images.shape,
    device.device_kind,
    jax.__version__,
  )
  name = hashlib.sha256(repr(about).encode()).hexdigest()[:16]
  kept = cache / f"{name}.json"
  with contextlib.suppress(OSError, ValueError):  # none, or a damaged one
    return json.loads(kept.read_text())
  seconds = measure(alone, jax.device_put(images, device))
  try:
    cache.mkdir(parents=True, exist_ok=True)
    files.write(kept, json.dumps(seconds))
  except OSError as error:
    _log.warning("The times of both mappings were not kept: %s", error)
  return seconds


def _agreed(choice: bool) -> bool:
  """The choice of the first process.

  Processes with different programs would wait for each other for ever.
  """
  return bool(multihost_utils.broadcast_one_to_all(choice))


def _pass(group: Group, key: Array) -> Callable[..., Any]:
  """Forward and backward pass, as a function of variables and images."""

  def loss(params, rest, images):
    outputs, after = group.apply(
      {"params": params, **rest}, images, key, train=True
    )
    return jnp.mean(jnp.square(outputs.logits)), after

  def both(variables, images):
    rest = without_params(variables)
    return jax.grad(loss, has_aux=True)(variables["params"], rest, images)

  return both


def _seconds(fn: Callable[..., Any], *args: Any) -> float:
  fn = jax.jit(fn)
  times = []
  for _ in range(_WARM_UP + _ROUNDS):
    began = time.perf_counter()
    jax.block_until_ready(fn(*args))
    times.append(time.perf_counter() - began)
  return statistics.median(times[_WARM_UP:])
