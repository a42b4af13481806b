"""Eight virtual CPU devices, set before jax is imported."""

import os

# Tests compile much and compute little: the compiler need not try hard.
os.environ["XLA_FLAGS"] = " ".join(
  (
    os.environ.get("XLA_FLAGS", ""),
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
  )
)
os.environ["JAX_PLATFORMS"] = "cpu"
