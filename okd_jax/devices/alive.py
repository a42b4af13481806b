"""Detects that a process of a run has died, and ends the other processes.

Every process renews a key in JAX's coordination service, and process 0 checks
that all keys change. The threads here never wait for the main thread, which may
hang in a collective with a process that has died.
"""

import contextlib
import ctypes
import json
import re
import signal
import sys
import threading
import time
import traceback
from typing import NoReturn

from okd_jax.devices import processes, signals

# JAX itself ends the other processes this long after one is lost, without
# saying which. This must be longer than all waiting here.
JAX_SECONDS = 200

# Time between two signs of life of a process.
_BEAT_SECONDS = 1.0
# A process without a sign of life for this long counts as lost.
_SILENT_SECONDS = 60.0
# All processes may meet the same error. This is their time to report it
# themselves, before another process's report ends them.
_GRACE_SECONDS = 15.0
# Process 0 serves the others, so it ends last, but after at most this long.
_LEAVE_SECONDS = 25.0

# Words in the error of a collective whose other side has died.
_CUT_OFF = re.compile("gloo|nccl|socket|connection|coordination", re.IGNORECASE)

_ALIVE, _ENDED, _GONE = "okd_jax/alive/", "okd_jax/ended/", "okd_jax/gone/"

_watch: "_Watch | None" = None


def start() -> None:
  """Starts watching, if there are several processes.

  Call it after `jax.distributed.initialize`.
  """
  global _watch
  process, count = processes.place()
  if count > 1:
    _watch = _Watch(process, count)
    _watch.start()


def finish() -> None:
  """Waits until all processes have finished; call it at the end of each."""
  if _watch is not None:
    _watch.finish()


def leave(code: int, why: object) -> NoReturn:
  """Ends this process and, if it has failed, the others.

  With several processes, it does not wait for this process's threads, as one of
  them may wait for a process that has failed.

  Args:
    code: exit code of this process; if it is not 0, also of the others.
    why: the reason, which the others print.
  """
  if _watch is not None:
    _watch.leave(code, str(why))
  sys.exit(code)


def explain(error: Exception) -> None:
  """Ends a process after an unexpected error, if there are several.

  If the error results from the loss of another process, the message names that
  process instead. With a single process it returns at once.
  """
  if _watch is None:
    return
  if _CUT_OFF.search(str(error)):
    # If another process is lost, the watch ends this one in the meantime.
    time.sleep(_SILENT_SECONDS + 5 * _BEAT_SECONDS)
    if "DEADLINE_EXCEEDED" in str(error):
      why = (
        "another process was too late for a collective; the last save stands. "
        "Run the same command again in all processes."
      )
      print(f"okd_jax: {why}", file=sys.stderr, flush=True)
      leave(signals.EXIT_CODE, why)
  traceback.print_exception(error)
  leave(1, f"{type(error).__name__}: {error}")


class _Watch:
  """Two threads that end this process when another one is lost or has failed.

  One thread talks to the coordination service, which runs in process 0; the
  other notices if the service does not answer.
  """

  def __init__(self, process: int, count: int):
    self._process, self._count = process, count
    self._client = processes.client()
    self._own = processes.whoami()
    self._names = {process: self._own}
    # Used in process 0: the last word of each process, and for how many beats
    # it has stayed the same.
    self._said: dict[int, tuple[str, int]] = {}
    # A count of beats, not a time, so that a process that was suspended does
    # not accuse process 0.
    self._unanswered = 0
    # Taken, and never released, by the thread that ends this process.
    self._ending = threading.Lock()

  def start(self) -> None:
    _delay_aborts()
    threading.Thread(target=self._guard, name="alive", daemon=True).start()
    self._greet()
    threading.Thread(target=self._beat, name="alive", daemon=True).start()

  def finish(self) -> None:
    # The service ends with process 0, so all must be here before that.
    with contextlib.suppress(Exception):
      self._tell(self._process, 0, "")
      while len(self._read(_ENDED)) < self._count:
        time.sleep(_BEAT_SECONDS / 10)
      if failed := self._find_failed():
        # JAX would wait minutes for it at the end.
        process, code, what = failed
        self._end_without(process, what, code)
    self._ending.acquire()
    self._depart()

  def leave(self, code: int, why: str) -> NoReturn:
    self._ending.acquire()
    self._depart(code, f"ended with code {code}: {why}")
    signals.exit_now("", code)

  def _greet(self) -> None:
    """Publishes where this process runs, and asks where process 0 does.

    The answer is needed for the message if process 0 dies.
    """
    try:
      self._show(0)
      # Longer than the guard waits, whose message says more.
      milliseconds = int(2000 * _SILENT_SECONDS)
      said = self._client.blocking_key_value_get(f"{_ALIVE}0", milliseconds)
      self._names[0] = said.partition(" ")[2]
    except Exception:  # as in `_beat`
      self._end_without(0, "is gone", served=False)

  def _show(self, number: int) -> None:
    self._client.key_value_set(
      f"{_ALIVE}{self._process}", f"{number} {self._own}", allow_overwrite=True
    )

  def _beat(self) -> None:
    number = 0
    while not self._ending.locked():
      number += 1
      try:
        self._show(number)
        lost, failed = self._find_lost(), self._find_failed()
      except Exception:  # the service has no common class of errors
        self._end_without(0, "is gone", served=False)
        return
      self._unanswered = 0
      if lost is not None:
        what = f"has given no sign of life for {_SILENT_SECONDS:g} s"
        self._tell(lost, signals.EXIT_CODE, what)
        self._end_without(lost, what)
      elif failed is not None:
        process, code, what = failed
        if code != signals.EXIT_CODE:
          time.sleep(_GRACE_SECONDS)
        self._end_without(process, what, code)
      time.sleep(_BEAT_SECONDS)

  def _guard(self) -> None:
    """Ends this process if process 0 does not answer."""
    while self._process and not self._ending.locked():
      time.sleep(_BEAT_SECONDS)
      self._unanswered += 1
      if self._unanswered >= 2 and not processes.is_served():
        self._end_without(0, "is gone", served=False)
      elif self._unanswered * _BEAT_SECONDS >= _SILENT_SECONDS:
        what = f"has not answered for {_SILENT_SECONDS:g} s"
        self._end_without(0, what, served=False)

  def _find_lost(self) -> int | None:
    """In process 0, a process whose key has not changed for too long."""
    if self._process:
      return None
    said = self._read(_ALIVE)
    self._names |= {i: text.partition(" ")[2] for i, text in said.items()}
    ended = self._read(_ENDED)
    for process in range(1, self._count):
      text, beats = self._said.get(process, ("", 0))
      now = said.get(process, "")
      self._said[process] = now, beats + 1 if now == text else 0
      silent = self._said[process][1] * _BEAT_SECONDS >= _SILENT_SECONDS
      if silent and process not in ended:
        return process
    return None

  def _find_failed(self) -> tuple[int, int, str] | None:
    """A process that has failed, its exit code and its last message."""
    for process, text in self._read(_ENDED).items():
      code, name, what = json.loads(text)
      if code:
        self._names[process] = name
        return process, code, what
    return None

  def _end_without(
    self,
    process: int,
    what: str,
    code: int = signals.EXIT_CODE,
    *,
    served: bool = True,
  ) -> None:
    """Ends this process, unless another thread is already ending it.

    Args:
      process: the process that is lost or has failed.
      what: what has happened to it, for the message.
      code: exit code of this process.
      served: whether process 0 still answers; it then waits for this process.
    """
    if not self._ending.acquire(blocking=False):
      return
    name = self._names.get(process, "which has not said where it is")
    if served:
      self._depart()
    signals.exit_now(
      f"okd_jax: process {process} ({name}) {what.rstrip('.')}. This one, "
      f"process {self._process}, stops too; the last save stands. Run the same "
      "command again in all processes.",
      code,
    )

  def _depart(self, code: int = 0, why: str = "") -> None:
    """Announces the end of this process; process 0 waits for the others."""

    def talk() -> None:
      if code:
        self._tell(self._process, code, why)
      self._client.key_value_set(f"{_GONE}{self._process}", "")
      while not self._process:
        ended, gone = self._read(_ENDED), self._read(_GONE)
        codes = {i: json.loads(text)[0] for i, text in ended.items()}
        lost = {i for i, code in codes.items() if code == signals.EXIT_CODE}
        if len(lost | set(gone)) == self._count:
          return
        time.sleep(_BEAT_SECONDS / 10)

    # In a thread, as the service may no longer answer.
    talker = threading.Thread(target=talk, daemon=True)
    talker.start()
    talker.join(_LEAVE_SECONDS)

  def _tell(self, process: int, code: int, what: str) -> None:
    """Publishes how a process has ended: its exit code and a message."""
    word = json.dumps([code, self._names.get(process, ""), what])
    self._client.key_value_set(f"{_ENDED}{process}", word, allow_overwrite=True)

  def _read(self, folder: str) -> dict[int, str]:
    found = self._client.key_value_dir_get(folder)
    return {int(key.rpartition("/")[2]): text for key, text in found}


def _delay_aborts() -> None:
  """Delays by six seconds the abort that JAX causes when process 0 dies.

  JAX would abort this process at once, in C code and with a stack trace. Six
  seconds are enough to print what has happened. The signal handler is the C
  function `sleep`; its argument is the number of the signal, SIGABRT = 6.
  """
  library = ctypes.CDLL(None)
  library.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
  library.signal.restype = ctypes.c_void_p
  library.signal(signal.SIGABRT, ctypes.cast(library.sleep, ctypes.c_void_p))
