"""Starts runs of several processes, for tests, with one device each."""

import os
import subprocess
import sys

import ports


def begin(*commands):
  """Starts the processes of a run of several."""
  address = f"localhost:{ports.free()}"
  return [
    subprocess.Popen(
      [sys.executable, *command],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env=os.environ
      | {
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(len(commands)),
        "JAX_PROCESS_ID": str(i),
        "XLA_FLAGS": os.environ["XLA_FLAGS"]
        + " --xla_force_host_platform_device_count=1",
      },
    )
    for i, command in enumerate(commands)
  ]
