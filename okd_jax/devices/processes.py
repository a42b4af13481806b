"""What the processes of a run tell each other past their devices.

Collectives of devices must come in the same order in every process, so they
belong to the main thread. What is said here goes through the coordination
service of JAX, from any thread.
"""

from collections.abc import Callable
import itertools
import socket
import time
from typing import Any

import jax
from jax._src import distributed

_NUMBERS = itertools.count()
# How often another process is asked; one question takes about a millisecond.
_POLL_SECONDS = 0.02


class Meeting:
  """One matter that all processes of a run decide together.

  Every process begins its meetings in the same order, in its main thread; the
  methods may be called in any thread.
  """

  def __init__(self) -> None:
    self._name = f"okd_jax/meeting/{next(_NUMBERS)}"
    self._alone = jax.process_count() == 1

  @property
  def name(self) -> str:
    """The same in every process, and of this meeting alone."""
    return self._name

  def told(
    self, say: Callable[[], str], calls: Callable[[], bool] = lambda: False
  ) -> str:
    """What process 0 says; the others wait for it.

    Args:
      say: called in process 0 alone. Where it takes long, it looks at `called`.
      calls: whether a process that waits calls to process 0.

    Raises:
      RuntimeError: if it failed there.
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
    """Whether a process that waits in `told` has called to process 0."""
    return not self._alone and bool(
      client().key_value_dir_get(f"{self._name}/call/")
    )

  def report(self, problem: str = "") -> None:
    """Says that this process is done, or what its problem is; once."""
    if not self._alone:
      key = f"{self._name}/report/{jax.process_index()}"
      client().key_value_set(key, problem, allow_overwrite=True)

  def problem(self) -> str:
    """A problem reported by now; empty if there is none."""
    return next(filter(None, self._reports()), "")

  def outcome(self) -> str:
    """Waits for a problem, or until every process has reported none."""
    while not self._alone:
      reports = self._reports()
      if any(reports) or len(reports) == jax.process_count():
        return next(filter(None, reports), "")
      time.sleep(_POLL_SECONDS)
    return ""

  def agree(self, problem: str = "") -> str:
    """Reports, and waits; every process learns of a problem of any of them."""
    if self._alone:
      return problem
    self.report(problem)
    return self.outcome()

  def is_unanimous(self, word: str, seconds: float) -> bool:
    """Says a word, and whether all others say the same before time is over."""
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
    """What was reported by now, what other processes said with their number."""
    if self._alone:
      return []
    said = []
    for key, problem in client().key_value_dir_get(f"{self._name}/report/"):
      process = int(key.rpartition("/")[2])
      other = problem and process != jax.process_index()
      said.append(f"In process {process}: {problem}" if other else problem)
    return said


def serves_others() -> bool:
  """Whether other processes end when this one does."""
  state: Any = distributed.global_state
  return state.service is not None and (state.num_processes or 1) > 1


def gather(word: str) -> list[str]:
  """What every process says here, by process; each waits for the others."""
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
  """Which of how many processes this is, without touching a device."""
  state: Any = distributed.global_state
  return state.process_id, state.num_processes or 1


def is_served() -> bool:
  """Whether the coordination service may be there: not if it is refused."""
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
  """What talks with the coordination service, in every process of several."""
  return distributed.global_state.client
