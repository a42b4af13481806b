"""CPU cores and threads of the machine that a process runs on."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
import os
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
  """Number of CPU cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):  # not on macOS
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def in_threads(
  function: Callable[[T], R],
  items: Iterable[T],
  ahead: int,
  size: Callable[[T], int] = lambda item: 1,
) -> Iterator[R]:
  """Calls a function for each item, with one thread per core.

  Args:
    function: function that several threads may call at once. If it raises an
      error, the error is raised when the result is due.
    items: its arguments; each is read only when its call is due.
    ahead: how many results are computed before they are requested.
    size: function that says as how many results that of an item counts.

  Yields:
    The results, in the order of the items.
  """
  waiting: collections.deque[tuple[futures.Future[R], int]]
  waiting, held = collections.deque(), 0
  pool = futures.ThreadPoolExecutor(cores())
  try:
    for item in items:
      count = size(item)
      waiting.append((pool.submit(function, item), count))
      held += count
      while held > ahead:
        due, count = waiting.popleft()
        held -= count
        yield due.result()
    while waiting:
      yield waiting.popleft()[0].result()
  finally:
    pool.shutdown(cancel_futures=True)
