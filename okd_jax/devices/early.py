"""Signals while no run trains; imports nothing that takes time.

As in `okd_jax.devices.signals`, which takes over while a run trains, a thread
reads the signals: Python's handlers wait for what the main thread is in.
"""

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

# EX_TEMPFAIL: running the same command again continues the run.
EXIT_CODE = 75

# SIGHUP comes when the terminal of a run is closed.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)

# Enough to flush a terminal or a file. A pipe whose reader hangs must not keep
# the process alive for longer.
_FLUSH_SECONDS = 1.0

_watching = False


def watch() -> None:
  """Ends this process with `EXIT_CODE` on a signal, until others handle it.

  Call it in the main thread.
  """
  global _watching
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  _watching = True
  renew()
  threading.Thread(
    target=_read, args=(reader,), name="early signals", daemon=True
  ).start()


def renew() -> None:
  """Installs the handlers again, after a library has installed its own."""
  if _watching:
    for number in heard():
      signal.signal(number, leave_to_watcher)


def heard() -> list[signal.Signals]:
  """The signals that stop a run: all but a SIGHUP that `nohup` ignores."""
  return [
    each
    for each in SIGNALS
    if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN
  ]


def hang_up(terminals: list[int]) -> None:
  """Discards what is written to terminals, which may be gone."""
  null = os.open(os.devnull, os.O_WRONLY)
  for number in terminals:
    os.dup2(null, number)
  os.close(null)


def terminals() -> list[int]:
  """Which of standard output and standard error are terminals."""
  return [number for number in (1, 2) if os.isatty(number)]


def leave_to_watcher(number: int, frame: FrameType | None) -> None:
  """Replaces the default action of a signal; a thread does the work."""


def exit_now(text: str, code: int = EXIT_CODE) -> NoReturn:
  """Ends this process at once, whatever its threads do.

  Args:
    text: message for standard error; nothing is written if it is empty.
    code: exit code of the process.
  """
  if text:
    say(text)
  flusher = threading.Thread(target=_flush, daemon=True)
  flusher.start()
  flusher.join(_FLUSH_SECONDS)
  os._exit(code)


def say(text: str) -> None:
  """Writes a line to standard error.

  Not through sys.stderr, whose lock the interrupted main thread may hold.
  """
  with contextlib.suppress(OSError):
    os.write(2, f"{text}\n".encode())


def _flush() -> None:
  with contextlib.suppress(OSError, ValueError):
    if sys.stdout.isatty():
      sys.stdout.write("\x1b[?25h")  # a live display has hidden the cursor
    sys.stdout.flush()


def _read(reader: int) -> None:
  while received := os.read(reader, 1):
    number = received[0]
    # Where another handler is installed, that one does the work.
    if signal.getsignal(number) is leave_to_watcher:
      name = signal.Signals(number).name
      exit_now(f"okd_jax: {name}: stopped; run the same command again.")
