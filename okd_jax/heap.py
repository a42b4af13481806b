"""Memory of a CPU that a step gives back is kept for the next one."""

import ctypes
import importlib.metadata
import importlib.util
import os

# The names are of glibc's malloc.h. XLA asks for all temporary arrays of a step
# at once. By default so large a block is fresh from the system every time, and
# the system fills it with zeros page by page (benchmarks/NOTES.md).
_OPTIONS = {
  -8: 1,  # M_ARENA_MAX: one heap for all threads; those of others are small
  -4: 0,  # M_MMAP_MAX: large blocks come from the heap too
  -1: 2**31 - 1,  # M_TRIM_THRESHOLD: as many free bytes at its end are kept
}


def keep() -> bool:
  """Lets the process keep freed memory, where it computes on a CPU.

  Works for threads that start later, so call it before the first device is
  touched. Of no use on accelerators, whose host threads would wait for each
  other.

  Returns:
    Whether the C library took the settings; it is glibc's, or it did not.
  """
  if not _on_cpu():
    return False
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
    return False
  return all([mallopt(option, value) for option, value in _OPTIONS.items()])


def _on_cpu() -> bool:
  """Whether JAX has nothing but the CPU here, without touching a device."""
  if platforms := os.environ.get("JAX_PLATFORMS"):
    return platforms == "cpu"
  plugins = importlib.metadata.entry_points(group="jax_plugins")
  return not plugins and importlib.util.find_spec("libtpu") is None
