"""The machine that a process runs on."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
import os
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):  # not on macOS
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def in_threads(
  function: Callable[[T], R], items: Iterable[T], ahead: int
) -> Iterator[R]:
  """Calls a function in as many threads as there are cores.

  Args:
    function: may be called by several threads at once. What it raises is
      raised in the place of its result.
    items: what it is called with, taken as they are needed.
    ahead: results at most that are made before they are asked for.

  Returns:
    Its results, in the order of the items.
  """
  waiting: collections.deque[futures.Future[R]] = collections.deque()
  pool = futures.ThreadPoolExecutor(cores())
  try:
    for item in items:
      waiting.append(pool.submit(function, item))
      if len(waiting) > ahead:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
  finally:
    pool.shutdown(cancel_futures=True)
