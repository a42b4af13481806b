"""Processes of a run that die: the others learn of it, and end by themselves.

Every process renews a key of JAX's coordination service; process 0 sees whose
key stays as it is. The threads here never wait for the main thread, which may
be in a collective with a process that is gone.
"""

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from typing import NoReturn

from okd_jax.devices import processes, signals

# By then JAX ends the others of a lost process itself, without a message that
# says more than that. Later than all that is waited for here.
JAX_SECONDS = 200

# How often a process shows that it lives.
_BEAT_SECONDS = 1.0
# One that has not done so for so long is lost.
_SILENT_SECONDS = 60.0
# What ends one process may be known to all: time to say so themselves.
_GRACE_SECONDS = 15.0
# Process 0 serves the others, so it leaves last, but not later than that.
_LEAVE_SECONDS = 25.0

# What a collective says whose other side is gone.
_CUT_OFF = re.compile("gloo|nccl|socket|connection|coordination", re.IGNORECASE)

_ALIVE, _ENDED, _GONE = "okd_jax/alive/", "okd_jax/ended/", "okd_jax/gone/"

_watch: "_Watch | None" = None


def start() -> None:
  """Begins to watch and to be watched, after `jax.distributed.initialize`."""
  global _watch
  process, count = processes.place()
  if count > 1:
    _watch = _Watch(process, count)
    _watch.start()


def finish() -> None:
  """Waits until all processes have come to their end, as this one has."""
  if _watch is not None:
    _watch.finish()


def leave(code: int, why: object) -> NoReturn:
  """Ends this process, and with it the others.

  Of several processes none waits for its threads: one of these may wait for a
  process that has failed.

  Args:
    code: of this process and of the others.
    why: told by the others.
  """
  if _watch is not None:
    _watch.leave(code, str(why))
  sys.exit(code)


def explain(error: Exception) -> None:
  """Ends one process of several after an error that nobody has foreseen.

  Where it comes of another process that is lost, that is said in its place.
  Returns if there is one process.
  """
  if _watch is None:
    return
  if _CUT_OFF.search(str(error)):
    # Meanwhile the watch ends this process if another one is lost.
    time.sleep(_SILENT_SECONDS + 5 * _BEAT_SECONDS)
  traceback.print_exception(error)
  leave(1, f"{type(error).__name__}: {error}")


class _Watch:
  """Two threads that end this process when another one is lost or has failed.

  One talks with the coordination service, which process 0 keeps; the other one
  notices when that does not answer.
  """

  def __init__(self, process: int, count: int):
    self._process, self._count = process, count
    self._client = processes.client()
    self._own = f"host {socket.gethostname()}, process id {os.getpid()}"
    self._names = {process: self._own}
    # Of process 0: what each said last, and for how many beats.
    self._said: dict[int, tuple[str, int]] = {}
    # Counted, not timed: a process that was stopped itself accuses nobody.
    self._unanswered = 0
    # Held for good by the thread that ends this process.
    self._ending = threading.Lock()

  def start(self) -> None:
    _delay_aborts()
    threading.Thread(target=self._guard, name="alive", daemon=True).start()
    self._greet()
    threading.Thread(target=self._beat, name="alive", daemon=True).start()

  def finish(self) -> None:
    # The service goes with process 0, not before all have come here.
    with contextlib.suppress(Exception):
      self._tell(self._process, 0, "")
      while len(self._read(_ENDED)) < self._count:
        time.sleep(_BEAT_SECONDS / 10)
    self._ending.acquire()
    self._depart()

  def leave(self, code: int, why: str) -> NoReturn:
    self._ending.acquire()
    self._depart(code, f"ended with code {code}: {why}")
    signals.exit_now("", code)

  def _greet(self) -> None:
    """Says where this process is, and learns it of process 0, which may die."""
    try:
      self._show(0)
      # Longer than the guard waits, which has more to say about it.
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
      except Exception:  # whatever the service and what is below it raise
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
    """The process whose key has stayed as it is for too long."""
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
    """A process that has ended as it should not, its code and what it said."""
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
    """Ends this process, unless the main thread is about to.

    Args:
      process: that is lost or has failed.
      what: became of it.
      code: to end with.
      served: whether process 0 still answers, and waits to hear of this one.
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
    """Says that this process goes; process 0 waits for the others."""

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

    # The service may not answer any more.
    talker = threading.Thread(target=talk, daemon=True)
    talker.start()
    talker.join(_LEAVE_SECONDS)

  def _tell(self, process: int, code: int, what: str) -> None:
    """Says how a process has ended, once."""
    word = json.dumps([code, self._names.get(process, ""), what])
    self._client.key_value_set(f"{_ENDED}{process}", word, allow_overwrite=True)

  def _read(self, folder: str) -> dict[int, str]:
    found = self._client.key_value_dir_get(folder)
    return {int(key.rpartition("/")[2]): text for key, text in found}


def _delay_aborts() -> None:
  """Lets JAX abort this process only after six seconds.

  When process 0 dies it does so at once, in C, with a stack trace; that is
  time enough to say what has happened. The handler is the C function `sleep`,
  given the number of the signal, 6.
  """
  library = ctypes.CDLL(None)
  library.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
  library.signal.restype = ctypes.c_void_p
  library.signal(signal.SIGABRT, ctypes.cast(library.sleep, ctypes.c_void_p))
