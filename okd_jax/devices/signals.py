"""Stops a run on a signal, after the current step.

Python runs signal handlers in the main thread, between its bytecodes, and so
not while XLA compiles. Therefore a watcher thread reads the signals from a
pipe.
"""

from collections.abc import Iterator
import contextlib
import functools
import os
import select
import signal
import threading
import time
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils
import numpy as np

from okd_jax.devices import early, processes
from okd_jax.devices.early import EXIT_CODE as EXIT_CODE, exit_now as exit_now

# A run that makes no progress for this long after a signal counts as hung: it
# may wait for a process that has died. The limit is longer if steps are long.
_HUNG_SECONDS = 60.0

# If several processes hang, the one on which the others depend waits this long,
# so that it ends last.
_LAST_SECONDS = 3.0

# A signal to a process group may arrive twice, if a launcher passes it on. A
# second one within this time is ignored.
ECHO_SECONDS = 0.2


class Stop:
  """Context manager that turns the first signal into a request to stop.

  The training loop polls `requested` or `agreed` between steps; after a
  request it saves and ends with `EXIT_CODE`. In three cases the process ends at
  once with that code, without saving:

  * on a second signal;
  * inside `busy`, or when it is entered after a signal, as nothing is polled
    there;
  * if the loop hangs, that is, if after a signal there is no sign of progress
    for `_HUNG_SECONDS`, or for twice the longest time between two signs so far
    if that is longer.

  Enter it in the main thread, after `jax.distributed.initialize`, which sets a
  signal handler too.
  """

  def __init__(self) -> None:
    self._lock = threading.Lock()
    self._requested = False
    self._received_at = 0.0
    self._busy: list[str] = []
    self._name = ""
    self._reached = False
    self._progress_at = time.monotonic()
    self._longest = 0.0
    self._terminals = early.terminals()
    self._restore = contextlib.ExitStack()

  @property
  def requested(self) -> bool:
    """Whether this process has received a signal."""
    return self._requested

  def agreed(self) -> bool:
    """Whether any process has received a signal; a collective.

    All processes must call it at the same steps. A call is a sign of progress.
    """
    self.progress()
    agreed = agree(self._requested)
    self._reached = self._reached or agreed
    return agreed

  def progress(self) -> None:
    """Gives a sign of progress."""
    now = time.monotonic()
    self.expect(now - self._progress_at)
    self._progress_at = now

  def expect(self, seconds: float) -> None:
    """Announces how long a part without a sign of progress may take."""
    self._longest = max(self._longest, seconds)

  @contextlib.contextmanager
  def busy(self, kind: str) -> Iterator[None]:
    """Marks work that polls no request, and that may be cut off without loss.

    Args:
      kind: name of the work in messages, for example "compiling".

    Yields:
      None.
    """
    with self._lock:
      if self._requested:
        exit_now(f"Not {kind}: stopping now, the last save stands.")
      self._busy.append(kind)
    try:
      yield
    finally:
      with self._lock:
        self._busy.pop()
      # Not `progress`: compiling takes longer than steps and would raise the
      # limit for them.
      self._progress_at = time.monotonic()

  def __enter__(self) -> "Stop":
    with contextlib.ExitStack() as stack:
      reader, writer = os.pipe()
      os.set_blocking(writer, False)
      watcher = threading.Thread(
        target=self._watch, args=(reader,), name="signals", daemon=True
      )
      watcher.start()
      stack.callback(os.close, reader)
      stack.callback(watcher.join)
      # The watcher ends when the writing end is closed.
      stack.callback(os.close, writer)
      previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
      stack.callback(signal.set_wakeup_fd, previous)
      for number in early.heard():
        handler = signal.signal(number, _leave_to_watcher)
        # None stands for a handler that was not installed from Python, which
        # Python cannot restore.
        handler = signal.SIG_DFL if handler is None else handler
        stack.callback(signal.signal, number, handler)
      self._restore = stack.pop_all()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    self._restore.close()

  def _watch(self, reader: int) -> None:
    while True:
      ready, _, _ = select.select([reader], [], [], self._patience())
      if not ready:
        self._leave_if_hung()
        continue
      received = os.read(reader, 64)
      if not received:
        return
      for number in received:
        if number in early.SIGNALS:
          self._receive(signal.Signals(number).name)

  def _patience(self) -> float | None:
    """Seconds until the run counts as hung.

    None if it cannot: before a signal, and once all processes agree to stop.
    """
    if not self._requested or self._reached:
      return None
    since = max(self._received_at, self._progress_at)
    limit = max(_HUNG_SECONDS, 2 * self._longest)
    return max(0.0, since + limit - time.monotonic())

  def _leave_if_hung(self) -> None:
    if self._patience() != 0:
      return
    silent = time.monotonic() - self._progress_at
    if processes.serves_others():
      time.sleep(_LAST_SECONDS)
    exit_now(
      f"{self._name}: no step has ended for {silent:.0f} s, so the run seems "
      "to hang: stopping now, the last save stands."
    )

  def _receive(self, name: str) -> None:
    if name == "SIGHUP":
      early.hang_up(self._terminals)
    with self._lock:
      if self._requested:
        if time.monotonic() - self._received_at < ECHO_SECONDS:
          return
        exit_now(f"Second signal ({name}): stopping without another save.")
      if self._busy:
        exit_now(
          f"{name} while {self._busy[-1]}: stopping now, the last save stands."
        )
      self._received_at = time.monotonic()
      self._name = name
      self._requested = True
    early.say(f"{name}: stopping after this step. Again to stop at once.")


def agree(flag: bool) -> bool:
  """Whether the flag is set in any process.

  With several processes this is a collective: every process must call it at the
  same steps, so that all stop after the same one.

  Args:
    flag: the flag of this process.

  Returns:
    The same value in every process.
  """
  if jax.process_count() == 1:
    return flag
  _meet()
  with jax.transfer_guard("allow"):
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


@functools.cache
def _meet() -> None:
  """Waits for all processes before their first collective.

  Gloo waits half a minute, and one may have read its data sooner than others.
  """
  processes.gather("")


def _leave_to_watcher(number: int, frame: FrameType | None) -> None:
  """Replaces the default action of a signal; the watcher does the work."""
