"""Decides which devices a run is spread over."""

import math

import jax
from jax.sharding import Mesh

from okd_jax.devices import host, mesh as mesh_lib
from okd_jax.errors import ConfigError
from okd_jax.settings.schema import RunConfig

# More devices than that are of no use on any CPU.
_MOST = 1024
# More of them asked for are a mistake, unless they are there.
_MOST_ASKED = 64


def cpu_devices(config: RunConfig) -> int:
  """Devices that JAX should split a CPU into for a run.

  One program on all cores leaves some of them idle, and a program of fewer
  peers, or fewer images, compiles faster (benchmarks/NOTES.md).

  Returns:
    The number of devices: that of the mesh if the configuration sets one.
  """
  if (config.mesh.data, config.mesh.peer) != (-1, -1):
    asked = max(1, config.mesh.data) * max(1, config.mesh.peer)
    # What is too much, or wrong, is refused later.
    return asked if asked <= _MOST_ASKED else 1
  cores, num_peers = host.cores(), config.peers.num_peers
  if not _alike(config):
    return _parts(config, cores)
  # Every device has as many peers: with three on two cores, one each. Wrong
  # numbers are refused later.
  counts = range(min(cores, num_peers), min(num_peers, _MOST) + 1)
  return next((n for n in counts if n > 0 == num_peers % n), 1)


def mesh(config: RunConfig) -> Mesh:
  """Arranges the devices, and checks that batches and peers divide evenly.

  Raises:
    ConfigError: naming the sizes that do not fit.
  """
  made = mesh_lib.make_mesh(*_axes(config))
  shards = made.shape[mesh_lib.DATA]
  for name, size in _batches(config).items():
    if size % shards:
      raise ConfigError(
        f"{name}={size} must be a multiple of the data axis of the mesh "
        f"({shards}); change one of them."
      )
  return made


def peers_apart(config: RunConfig, devices: int) -> int:
  """The number of accelerators of a process that peers take by default.

  A TPU is three times as fast with one network and 128 images as with four
  networks and 32 images, and no slower with 512 (docs/speed.md). If peers were
  spread over processes, each of these would read the same images.
  """
  if not _alike(config):
    return 1
  return math.gcd(config.peers.num_peers, devices)


def _axes(config: RunConfig) -> tuple[int, int]:
  """Sizes of the axes data and peer, as set or as suits the devices."""
  data, peer = config.mesh.data, config.mesh.peer
  if peer != -1:
    return data, peer
  devices = jax.devices()
  on_cpu = devices[0].platform == "cpu"
  if data != -1 or (on_cpu and jax.process_count() > 1):
    return data, 1
  if not on_cpu:
    return data, peers_apart(config, jax.local_device_count())
  peer = 1
  if _alike(config):
    common = _divisors(config.peers.num_peers)
    peer = max(n for n in common if n <= len(devices))
  return _parts(config, len(devices) // peer), peer


def _parts(config: RunConfig, most: int) -> int:
  """The largest number up to `most` that divides every batch."""
  sizes = _batches(config).values()
  return max(
    n for n in range(1, most + 1) if all(size % n == 0 for size in sizes)
  )


def _batches(config: RunConfig) -> dict[str, int]:
  """What is spread over devices at once, by its name."""
  name = "config.batch_size"
  if config.accumulate > 1:
    name += " / config.accumulate"
  return {
    name: config.batch_size // max(config.accumulate, 1),
    "config.eval_batch_size": config.eval_batch_size,
  }


def _alike(config: RunConfig) -> bool:
  """Whether peers are whole networks of one shape, which share no work."""
  return config.peers.kind == "replicas" and "," not in config.peers.net


def _divisors(number: int) -> list[int]:
  return [n for n in range(1, number + 1) if number % n == 0]
