"""Starts runs of several processes, for tests."""

import os
import socket
import subprocess
import sys


def begin(*commands):
  """Starts the processes of a run of several."""
  with socket.socket() as taken:
    taken.bind(("localhost", 0))
    address = f"localhost:{taken.getsockname()[1]}"
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
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
      },
    )
    for i, command in enumerate(commands)
  ]
