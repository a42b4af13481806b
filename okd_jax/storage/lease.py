"""One run at a time in one work directory of a bucket.

A bucket has no lock that an operating system would release. Instead, the owner
creates an object if there is none, and writes it again every few seconds; a
program that sees it unchanged for longer takes it over. No clocks are compared.
"""

from collections.abc import Callable
import logging
import os
import socket
import threading
import time
from typing import TYPE_CHECKING
import uuid

from okd_jax.errors import RunLockError
from okd_jax.storage import bucket, owner
from okd_jax.storage.lock import Held

if TYPE_CHECKING:
  from etils import epath

_log = logging.getLogger(__name__)


class Lease(Held):
  """Context manager that holds a work directory for this process.

  Attributes:
    workdir: work directory in a bucket.
    renewed_secs: seconds between two writes of a living owner.
    dead_secs: seconds without a write after which an owner counts as dead.
  """

  def __init__(
    self,
    workdir: "epath.Path",
    *,
    renewed_secs: float = 10.0,
    dead_secs: float = 60.0,
  ):
    self.workdir = workdir
    self.renewed_secs, self.dead_secs = renewed_secs, dead_secs
    self._object = bucket.Object(workdir / "run.lease.json")
    self._token = uuid.uuid4().hex
    self._generation = 0
    self._lost = threading.Event()
    self._released = threading.Event()
    self._thread: threading.Thread | None = None

  def acquire(self) -> None:
    """Takes the lease.

    It waits to see whether the owner still lives, unless the owner is known to
    have died on this machine.

    Raises:
      InUseError: if another run has it.
      RunLockError: if the bucket cannot be written to.
    """
    try:
      generation = self._free_generation()
      taken = self._object.replace(self._content(), generation)
    except RunLockError:
      raise
    except Exception as error:  # of the client and what is below it
      raise RunLockError(
        f"{self.workdir} cannot be locked: {error}. Check the bucket's name "
        "and your access to it, or choose another workdir."
      ) from error
    if taken is None:
      found = self._object.read()
      raise owner.in_use(self.workdir, found and found[0])
    self._generation = taken
    self._thread = threading.Thread(target=self._renew, daemon=True)
    self._thread.start()

  def check(self) -> None:
    """Raises RunLockError if another run has taken the lease over."""
    if self._lost.is_set():
      raise RunLockError(
        f"{self.workdir} was taken over by another run: this one could not "
        f"reach the bucket for {self.dead_secs:g} seconds. Let the other one "
        "go on, or stop it and run the same command again."
      )

  def mark(self) -> int | None:
    """A value that changes while the lease is held; None if it is free."""
    found = self._object.read()
    return None if found is None or _is_dead(found[0]) else found[1]

  def release(self) -> None:
    """Gives the lease back; does nothing if it is not held."""
    if self._thread is None:
      return
    self._released.set()
    self._thread.join()
    self._thread = None
    if not self._lost.is_set():
      _quietly("given back", lambda: self._object.remove(self._generation))

  def _free_generation(self) -> int:
    """Generation of the object once nobody holds it; 0 if there is none."""
    found = self._object.read()
    if found is None:
      return 0
    if _is_dead(found[0]):
      return found[1]
    _log.warning(
      "%s is in use (%s); waiting up to %g s to see whether its owner lives.",
      *(self.workdir, owner.name(found[0]), self.dead_secs),
    )
    until = time.monotonic() + self.dead_secs
    while time.monotonic() < until:
      time.sleep(min(1.0, self.renewed_secs / 2))
      now = self._object.read()
      if now is None:
        return 0
      if now[1] != found[1]:
        raise owner.in_use(self.workdir, now[0])
    return found[1]

  def _renew(self) -> None:
    while not self._released.wait(self.renewed_secs):
      _quietly("renewed", self._renew_once)
      if self._lost.is_set():
        return

  def _renew_once(self) -> None:
    taken = self._object.replace(self._content(), self._generation)
    if taken is None:
      found = self._object.read()
      # An upload that was repeated may have met its own first attempt.
      if found is None or owner.field(found[0], "token") != self._token:
        self._lost.set()
        return
      taken = found[1]
    self._generation = taken

  def _content(self) -> bytes:
    said = owner.content(processes=_space(), token=self._token)
    return (said + "\n").encode()


def _quietly(what: str, act: Callable[[], None]) -> None:
  """Only warns if a bucket cannot be reached, and says what was to be done."""
  try:
    act()
  except Exception as error:  # of the client and what is below it
    _log.warning("The lease could not be %s: %s", what, error)


def _space() -> str:
  """The space in which a process id means the same process, if known."""
  try:
    return os.readlink("/proc/self/ns/pid")
  except OSError:
    return ""


def _is_dead(content: bytes) -> bool:
  """Whether the owner was a process of this machine that no longer exists."""
  host, pid = owner.field(content, "host"), owner.field(content, "pid")
  space = owner.field(content, "processes")
  here = (host, space) == (socket.gethostname(), _space())
  if not (here and space and isinstance(pid, int)):
    return False
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return True
  except OSError:
    pass
  return False
