"""Freed memory stays with the process."""

import os
import platform
import subprocess
import sys

import pytest

from okd_jax import heap

# Counts pages that the system has to hand out for a large block, a thread's.
COUNT = """
import resource, sys, threading
import numpy as np
from okd_jax import heap
assert heap.keep() if sys.argv[1] == "keep" else True
counts = []
def work():
  for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(100 * 2**20, np.uint8)
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(counts[-1])
"""


def pages(how):
  done = subprocess.run(
    [sys.executable, "-c", COUNT, how],
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=True,
  )
  return int(done.stdout)


@pytest.mark.skipif(
  platform.libc_ver()[0] != "glibc", reason="the settings are of glibc"
)
def test_large_blocks_are_used_again():
  # NumPy asks for huge pages where it can, so as few as 50 may be handed out.
  assert pages("keep") < 10 < pages("leave")


def test_memory_beside_an_accelerator_is_left_alone(monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
  monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: pytest.fail("called"))
  assert not heap.keep()
