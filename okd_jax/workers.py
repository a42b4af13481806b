"""Starts several workers on one comparison, all on this machine."""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from types import FrameType

from okd_jax.devices import distributed, early, host, signals
from okd_jax.errors import ConfigError, Interrupted, InUseError, OkdError
from okd_jax.results import rows
from okd_jax.results.board import Board
from okd_jax.results.grid import Cell
from okd_jax.runs import workdir as workdir_lib
from okd_jax.settings import layout
from okd_jax.settings.schema import RunConfig
from okd_jax.storage import files
from okd_jax.storage.paths import Path

# The command of a worker, before its arguments.
PROGRAM = (sys.executable, "-m", "okd_jax", "compare")
_LOOK_SECONDS = 0.5
# Of a graphics card, for all workers on it together.
_MEMORY = 0.9
_SAID = re.compile(r"^(?:Cell \d+ of \d+: (.+)|Waiting for .*)$", re.MULTILINE)
_DEVICES = "import jax; d = jax.local_devices(); print(d[0].platform, len(d))"


@dataclasses.dataclass(frozen=True)
class Place:
  """The part of this machine that a worker may use.

  Attributes:
    name: name in messages.
    cores: numbers of its CPU cores; empty for all.
    environ: additional environment variables of the worker.
  """

  name: str
  cores: frozenset[int] = frozenset()
  environ: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass
class _Worker:
  place: Place
  log: pathlib.Path
  begin: int
  process: subprocess.Popen[bytes]

  @property
  def runs(self) -> bool:
    return self.process.poll() is None

  def said(self) -> tuple[str, str]:
    """The cell that it trains, if any, and the last line of its output."""
    with self.log.open("rb") as file:
      file.seek(self.begin)
      text = file.read().decode(errors="replace")
    cell = ""
    for found in _SAID.finditer(text):
      cell = found[1] or ""
    return cell, (text.strip().splitlines() or [""])[-1]


def places(asked: str, config: RunConfig) -> list[Place]:
  """Divides this machine among workers.

  Args:
    asked: the number of workers, or "auto": one for each GPU; on a CPU one for
      as many cores as a run spreads its networks over.
    config: configuration of the runs, without a method.

  Raises:
    ConfigError: if `asked` is neither, or this machine cannot be divided so.
  """
  if asked != "auto" and not (asked.isdecimal() and int(asked) > 0):
    raise ConfigError(f"--workers={asked} must be a number, or auto.")
  if distributed.expected():
    raise ConfigError(
      f"--workers={asked}: this is one of several processes of a run, and "
      "workers are runs of their own; start one command alone."
    )
  platform, devices = _devices()
  if platform == "cpu":
    auto = max(1, host.cores() // layout.cpu_devices(config))
    return _on_cpu(auto if asked == "auto" else int(asked))
  if platform == "gpu":
    return _on_cards(devices if asked == "auto" else int(asked), devices)
  if asked not in ("auto", "1"):
    raise ConfigError(
      f"--workers={asked} must be 1 on {platform}: one process has all chips."
    )
  return [Place(platform)]


def run(
  cells: Sequence[Cell],
  command: Sequence[str],
  workdir: Path,
  where: Sequence[Place],
) -> dict[str, str]:
  """Starts workers and waits for them.

  Args:
    cells: the cells that the workers share.
    command: the command that starts a worker.
    workdir: work directory of the comparison.
    where: the part of the machine that each worker may use.

  Returns:
    Why cells have failed, by their names.

  Raises:
    Interrupted: after a signal, which is passed on to the workers.
    OkdError: if the workers ended although cells are left.
  """
  workers: list[_Worker] = []
  with contextlib.ExitStack() as stack:
    # No worker is left behind, whatever happens here.
    stack.callback(_stop, workers)
    received = stack.enter_context(_passing_on(workers))
    for number, place in enumerate(where, 1):
      workers.append(_start(number, place, command, workdir))
      if received:  # perhaps before it was one of them
        _stop(workers)
        break
    board = Board(cells)
    stack.enter_context(board.live())
    while any(worker.runs for worker in workers):
      board.show(
        [(w.place.name, *w.said()) for w in workers if w.runs],
        stopping=bool(received),
      )
      time.sleep(_LOOK_SECONDS)
    board.show([], stopping=bool(received))
  if not board.left:
    return board.failed
  if received:
    raise Interrupted(
      f"Stopped with {len(board.left)} of {len(cells)} cells left; the same "
      "command goes on."
    )
  ends = (f"{w.log} (code {w.process.returncode})" for w in workers)
  raise OkdError(
    f"all workers have ended, and {len(board.left)} cells are left; why they "
    f"ended is in {', '.join(ends)}."
  )


def forget_failures(cells: Sequence[Cell]) -> None:
  """Removes the records of failures, so that workers try these cells again."""
  for cell in cells:
    if files.exists(cell.workdir / rows.ERROR):
      with contextlib.suppress(InUseError), workdir_lib.lock(cell.workdir):
        (cell.workdir / rows.ERROR).unlink(missing_ok=True)


def unfinished(cells: Sequence[Cell]) -> list[Cell]:
  """The cells that a worker may still train."""
  return [cell for cell in cells if not rows.is_finished(cell)]


def folder(workdir: Path, what: str) -> pathlib.Path:
  """A folder on this machine for files that belong to a comparison."""
  if isinstance(workdir, pathlib.Path):
    return workdir / what
  return pathlib.Path("runs") / f"{workdir.name}-{what}"


def _devices() -> tuple[str, int]:
  """The devices that another process finds, as JAX would keep them in use."""
  environ = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
  found = subprocess.run(
    [sys.executable, "-c", _DEVICES],
    capture_output=True,
    text=True,
    env=environ,
  )
  if found.returncode:
    last = (found.stderr.strip().splitlines() or [""])[-1]
    raise ConfigError(f"JAX finds no devices on this machine: {last}")
  platform, number = found.stdout.split()[-2:]
  return platform, int(number)


def _on_cpu(number: int) -> list[Place]:
  if not hasattr(os, "sched_getaffinity"):  # not on macOS
    return [Place("CPU")] * number
  cores = sorted(os.sched_getaffinity(0))
  made = []
  for i in range(number):
    own = cores[i * len(cores) // number : (i + 1) * len(cores) // number]
    # More workers than cores take turns.
    own = own or [cores[i % len(cores)]]
    made.append(Place(f"cores {','.join(map(str, own))}", frozenset(own)))
  return made


def _on_cards(number: int, devices: int) -> list[Place]:
  chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
  cards = chosen.split(",") if chosen else [str(i) for i in range(devices)]
  made = []
  for i in range(number):
    card = cards[i % len(cards)]
    environ = [("CUDA_VISIBLE_DEVICES", card)]
    if number > len(cards):
      share = _MEMORY / -(-number // len(cards))
      environ.append(("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{share:.3f}"))
    made.append(Place(f"GPU {card}", environ=tuple(environ)))
  return made


def _start(
  number: int, place: Place, command: Sequence[str], workdir: Path
) -> _Worker:
  # Another command of this machine may be at the same comparison.
  name = f"{socket.gethostname()}-{os.getpid()}-{number}.log"
  log = folder(workdir, "workers") / name
  log.parent.mkdir(parents=True, exist_ok=True)
  with log.open("ab") as file, _cores(place.cores):
    begin = file.tell()
    process = subprocess.Popen(
      command,
      stdin=subprocess.DEVNULL,
      stdout=file,
      stderr=subprocess.STDOUT,
      env=os.environ | dict(place.environ) | {"PYTHONUNBUFFERED": "1"},
      # Control-C in a terminal reaches all of a session; once is enough.
      start_new_session=True,
    )
  return _Worker(place, log, begin, process)


@contextlib.contextmanager
def _cores(cores: frozenset[int]) -> Iterator[None]:
  """Limits processes that are started inside to these cores."""
  if not cores:
    yield
    return
  before = os.sched_getaffinity(0)
  os.sched_setaffinity(0, cores)
  try:
    yield
  finally:
    os.sched_setaffinity(0, before)


def _stop(workers: Sequence[_Worker]) -> None:
  """Asks the workers that still run to stop."""
  for worker in workers:
    if worker.runs:
      worker.process.terminate()


@contextlib.contextmanager
def _passing_on(workers: Sequence[_Worker]) -> Iterator[list[float]]:
  """Passes signals on to the workers; yields the times of the signals."""
  received: list[float] = []
  terminals = early.terminals()

  def handle(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGHUP:
      early.hang_up(terminals)
    now = time.monotonic()
    if received and now - received[-1] < signals.ECHO_SECONDS:
      return
    received.append(now)
    _stop(workers)

  before = {each: signal.signal(each, handle) for each in early.heard()}
  try:
    yield received
  finally:
    for each, handler in before.items():
      signal.signal(each, handler)
