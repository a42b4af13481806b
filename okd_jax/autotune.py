"""Chooses the faster form of a group's program by a short measurement."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
import statistics
import time

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp

from okd_jax import mesh as mesh_lib
from okd_jax.core import Array
from okd_jax.peers import Branches, Replicas
from okd_jax.recipe import Recipe

CACHE = Path.home() / ".cache" / "okd_jax" / "mappings"
_CANDIDATES = ("unroll", "vmap")
_WARM_UP, _ROUNDS = 2, 7


def settle(recipe: Recipe, cache: Path = CACHE) -> Recipe:
  """Replaces the mapping "auto" of a recipe by the faster one.

  On CPU that is "unroll", which is known. Elsewhere forward and backward pass
  of the peers that one device holds are timed in both forms, once for every
  kind of device, network, number of peers and batch.

  Args:
    recipe: of a run.
    cache: folder that keeps the times.

  Returns:
    The recipe, with "unroll" or "vmap" for "auto"; the same in all processes.
  """
  group = recipe.peers
  if not isinstance(group, Replicas | Branches) or group.mapping != "auto":
    return recipe
  device = recipe.mesh.devices.flat[0]
  if device.platform == "cpu":
    choice = "unroll"
  else:
    first = jax.process_index() == 0
    index = _CANDIDATES.index(_faster(recipe, group, cache)) if first else 0
    # Processes that ran different programs would wait for each other for ever.
    choice = _CANDIDATES[int(multihost_utils.broadcast_one_to_all(index))]
  return dataclasses.replace(
    recipe, peers=dataclasses.replace(group, mapping=choice)
  )


def measure(group: Replicas | Branches, images: Array) -> dict[str, float]:
  """Times forward and backward pass of a group.

  Args:
    group: on a mesh of one device.
    images: float [B, H, W, c], on that device.

  Returns:
    Median seconds of every mapping.
  """
  key = jax.random.key(0)
  variables = group.init(key, images[:1])
  return {
    mapping: _seconds(
      dataclasses.replace(group, mapping=mapping), variables, images, key
    )
    for mapping in _CANDIDATES
  }


def _faster(recipe: Recipe, group: Replicas | Branches, cache: Path) -> str:
  device = jax.local_devices()[0]
  shape = recipe.mesh.shape
  alone = dataclasses.replace(
    group,
    num_peers=group.num_peers // shape[mesh_lib.PEER],
    mesh=mesh_lib.make_mesh(1, 1, [device]),
  )
  size = recipe.batch_size // shape[mesh_lib.DATA]
  images = jnp.zeros((size, *recipe.info.image_shape), recipe.image_dtype)
  about = (
    type(group).__name__,
    repr(group.net),
    alone.num_peers,
    images.shape,
    device.device_kind,
    jax.__version__,
  )
  name = hashlib.sha256(repr(about).encode()).hexdigest()[:16]
  kept = cache / f"{name}.json"
  if kept.exists():
    seconds = json.loads(kept.read_text())
  else:
    seconds = measure(alone, jax.device_put(images, device))
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = kept.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(seconds))
    unfinished.replace(kept)
  return min(_CANDIDATES, key=seconds.__getitem__)


def _seconds(group, variables, images, key) -> float:
  def loss(params, rest):
    outputs, after = group.apply(
      {"params": params, **rest}, images, key, train=True
    )
    return jnp.mean(jnp.square(outputs.logits)), after

  rest = {name: v for name, v in variables.items() if name != "params"}
  step = jax.jit(jax.grad(loss, has_aux=True))
  times = []
  for _ in range(_WARM_UP + _ROUNDS):
    began = time.perf_counter()
    jax.block_until_ready(step(variables["params"], rest))
    times.append(time.perf_counter() - began)
  return statistics.median(times[_WARM_UP:])
