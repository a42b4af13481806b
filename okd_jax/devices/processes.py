"""Messages between the processes of a run that do not use devices.

Collectives on devices must have the same order in every process, so only the
main thread may start them. The messages here go through JAX's coordination
service and may be sent from any thread.
"""

from collections.abc import Callable
import itertools
import os
import socket
import time
from typing import Any

import jax
from jax._src import distributed

_NUMBERS = itertools.count()
# Pause between two requests to the service; one takes about a millisecond.
_POLL_SECONDS = 0.02


class Meeting:
  """One decision that all processes of a run make together.

  Every process must create its meetings in the same order, in its main thread.
  The methods may be called in any thread. With a single process they return at
  once.
  """

  def __init__(self) -> None:
    self._name = f"okd_jax/meeting/{next(_NUMBERS)}"
    self._alone = jax.process_count() == 1

  @property
  def name(self) -> str:
    """Name of this meeting only, which is the same in every process."""
    return self._name

  def told(
    self, say: Callable[[], str], calls: Callable[[], bool] = lambda: False
  ) -> str:
    """Computes a text in process 0 and returns it in all; the others wait.

    Args:
      say: function that makes the text; only process 0 calls it. If it takes
        long, it should check `called` from time to time.
      calls: polled while a process waits; if true, it sends a call to process
        0, which sees it in `called`.

    Raises:
      RuntimeError: in the other processes, if a process has reported a problem;
        in process 0, `say` raises its own error.
    """
    if self._alone:
      return say()
    if jax.process_index() == 0:
      try:
        word = say()
      except Exception as error:
        self.report(str(error) or repr(error))
        raise
      client().key_value_set(f"{self._name}/word/0", word)
      return word
    while True:
      for _, word in client().key_value_dir_get(f"{self._name}/word/"):
        return word
      if problem := self.problem():
        raise RuntimeError(problem)
      if calls():
        client().key_value_set(
          f"{self._name}/call/{jax.process_index()}", "", allow_overwrite=True
        )
      time.sleep(_POLL_SECONDS)

  def called(self) -> bool:
    """Whether a process that waits in `told` has sent a call to process 0."""
    return not self._alone and bool(
      client().key_value_dir_get(f"{self._name}/call/")
    )

  def report(self, problem: str = "") -> None:
    """Reports that this process is done, or what its problem is."""
    if not self._alone:
      key = f"{self._name}/report/{jax.process_index()}"
      client().key_value_set(key, problem, allow_overwrite=True)

  def problem(self) -> str:
    """A problem that a process has reported so far; empty if there is none."""
    return next(filter(None, self._reports()), "")

  def outcome(self) -> str:
    """Waits until one process reports a problem, or all are done.

    Returns:
      The problem; empty if there is none.
    """
    while not self._alone:
      reports = self._reports()
      if any(reports) or len(reports) == jax.process_count():
        return next(filter(None, reports), "")
      time.sleep(_POLL_SECONDS)
    return ""

  def agree(self, problem: str = "") -> str:
    """Reports and waits for the others; returns a problem of any process."""
    if self._alone:
      return problem
    self.report(problem)
    return self.outcome()

  def is_unanimous(self, word: str, seconds: float) -> bool:
    """Whether all processes pass the same word within a time.

    Args:
      word: the word of this process.
      seconds: how long to wait for the others.
    """
    if self._alone:
      return True
    folder = f"{self._name}/said/"
    client().key_value_set(f"{folder}{jax.process_index()}", word)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
      said = client().key_value_dir_get(folder)
      if len(said) == jax.process_count():
        return all(other == word for _, other in said)
      time.sleep(_POLL_SECONDS)
    return False

  def _reports(self) -> list[str]:
    """The reports so far; problems of others begin with the process's index."""
    if self._alone:
      return []
    said = []
    for key, problem in client().key_value_dir_get(f"{self._name}/report/"):
      process = int(key.rpartition("/")[2])
      other = problem and process != jax.process_index()
      said.append(f"In process {process}: {problem}" if other else problem)
    return said


def whoami() -> str:
  """This process in words, for messages and logs."""
  return f"host {socket.gethostname()}, process id {os.getpid()}"


def serves_others() -> bool:
  """Whether other processes depend on this one for the coordination service."""
  state: Any = distributed.global_state
  return state.service is not None and (state.num_processes or 1) > 1


def gather(word: str) -> list[str]:
  """Returns the words of all processes, by index; waits for all of them."""
  process, count = place()
  if count == 1:
    return [word]
  folder = f"okd_jax/gather/{next(_NUMBERS)}/"
  client().key_value_set(f"{folder}{process}", word)
  while True:
    said = client().key_value_dir_get(folder)
    if len(said) == count:
      ordered = sorted(said, key=lambda each: int(each[0].rpartition("/")[2]))
      return [word for _, word in ordered]
    time.sleep(_POLL_SECONDS)


def place() -> tuple[int, int]:
  """Index of this process and number of processes; uses no device."""
  state: Any = distributed.global_state
  return state.process_id, state.num_processes or 1


def is_served() -> bool:
  """Whether the coordination service may exist.

  It does not if its port refuses a connection; any other failure, such as a
  timeout, says nothing about it.
  """
  state: Any = distributed.global_state
  host, _, port = state.coordinator_address.rpartition(":")
  try:
    with socket.create_connection((host.strip("[]"), int(port)), timeout=1.0):
      return True
  except ConnectionRefusedError:
    return False
  except OSError:
    return True


def client() -> Any:
  """Client of the coordination service; None if there is only one process."""
  return distributed.global_state.client
