"""Eight virtual CPU devices, set before jax is imported."""

import gc
from importlib import metadata
import os
from pathlib import Path
import signal

import pruned
import pytest

# Imported where they are needed; `undrawn` changes the process that imports it.
collect_ignore = ["support"]

# Tests compile much and compute little: the compiler need not try hard.
flags = [
  os.environ.get("XLA_FLAGS", ""),
  "--xla_force_host_platform_device_count=8",
  "--xla_backend_optimization_level=0",
  "--xla_llvm_disable_expensive_passes=true",
]
# Three times as quick; later releases do not know the flag and abort. Cores
# are busy with tests already, so a program is not compiled in parts.
if metadata.version("jaxlib").startswith("0.10."):
  flags.append("--xla_cpu_use_fusion_emitters=false")
  flags.append("--xla_cpu_parallel_codegen_split_count=1")
os.environ["XLA_FLAGS"] = " ".join(flags)
os.environ["JAX_PLATFORMS"] = "cpu"
# Runs of the same recipe, in this process or in a child, compile once.
cache = Path.home() / ".cache" / "okd_jax" / "tests" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Every change of a program adds to it. One session prunes, not its workers.
if "PYTEST_XDIST_WORKER" not in os.environ:
  pruned.prune(cache, 2**30)
# `nohup` would ignore it, also in the processes that tests start.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Tracing makes many objects and hardly any garbage.
gc.set_threshold(100_000, 20, 100)


@pytest.fixture(scope="session", autouse=True)
def draw():
  """Draws the curves of a run; runs of this process leave it to the tests.

  It would take half of their time. `trained` and runs of commands draw them.
  """
  from okd_jax import train

  with pytest.MonkeyPatch.context() as patch:
    whole = train.draw
    patch.setattr(train, "draw", lambda workdir: None)
    yield whole


@pytest.fixture(scope="session")
def trained(tmp_path_factory, draw):
  """The work directory of a finished run of ten steps; not to be changed."""
  from configs import okddip_digits
  from okd_jax import train
  from okd_jax.settings.freeze import freeze

  config = okddip_digits.get_config("smoke")
  config.peers.num_peers = 3
  config.mesh.data = 1
  config.epochs = 1
  config.log_steps = 2
  # Something that holds for training batches alone.
  config.data.per_class = 2
  workdir = tmp_path_factory.mktemp("runs") / "trained"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train, "draw", draw)
    train.train(freeze(config), workdir)
  return workdir
