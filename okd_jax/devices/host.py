"""The machine that a process runs on."""

import os


def cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):  # not on macOS
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
