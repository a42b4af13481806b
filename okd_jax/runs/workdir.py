"""The work directory of a run: its owner and its checkpoints."""

from collections.abc import Callable, Iterator
import contextlib
import pathlib
import re
import time

import jax

from okd_jax.devices.processes import Meeting
from okd_jax.errors import ConfigError, InUseError
from okd_jax.runs import run as run_lib
from okd_jax.settings import config as config_lib
from okd_jax.settings.schema import RunConfig
from okd_jax.storage import bucket, files, lock as lock_lib
from okd_jax.storage.lease import Lease
from okd_jax.storage.paths import Path

# Between two attempts to take a lock that others hold for moments.
_RETRY_SECONDS = 0.1
# A file server may show a new file to other machines only later.
_SEEN_SECONDS = 60.0
_SEED = re.compile(r"seed(\d+)")


def of_seed(workdir: Path, seed: int) -> Path:
  """The folder of one of several seeds."""
  return workdir / f"seed{seed}"


def runs(workdir: Path) -> dict[int | None, Path]:
  """The runs in a folder.

  Returns:
    The folders of the seeds, by seed, if the folder is that of several seeds;
    otherwise the folder itself, under the key None, whatever it holds.
  """
  with bucket.reached(workdir):
    seeds = {
      int(found[1]): path
      for path in (workdir.iterdir() if workdir.is_dir() else ())
      if (found := _SEED.fullmatch(path.name)) and run_lib.exists(path)
    }
    is_run = run_lib.exists(workdir)
  if is_run or not seeds:
    return {None: workdir}
  return dict(sorted(seeds.items()))


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[Callable[[], None]]:
  """Keeps other programs from training in a folder.

  Yields:
    A function that raises RunLockError if another run has taken over the
      folder, as may happen in a bucket that could not be reached.

  Raises:
    InUseError: if another program trains there.
  """
  # The processes of one run share the folder; the first one speaks for all.
  if jax.process_index() != 0:
    yield lambda: None
  elif isinstance(workdir, pathlib.Path):
    with lock_lib.RunLock(workdir):
      yield lambda: None
  else:
    with Lease(workdir) as lease:
      yield lease.check


def require_shared(workdir: Path) -> None:
  """Refuses a locked folder that not all processes see; a collective.

  Raises:
    ConfigError: in all processes.
  """
  if jax.process_count() == 1 or not isinstance(workdir, pathlib.Path):
    return
  owner = workdir / lock_lib.OWNER
  expected = Meeting().told(lambda: files.text(owner))
  until = time.monotonic() + _SEEN_SECONDS
  while not (seen := _content(owner) == expected) and time.monotonic() < until:
    time.sleep(_RETRY_SECONDS)
  problem = "" if seen else f"{owner} of process 0 is not there"
  if problem := Meeting().agree(problem):
    raise ConfigError(
      f"--workdir={workdir} must be a folder that all processes share, or in a "
      f"bucket: {problem}."
    )


def _content(path: pathlib.Path) -> str:
  """The content of a file that may be missing or not whole yet."""
  try:
    return files.text(path)
  except (OSError, UnicodeDecodeError):
    return ""


@contextlib.contextmanager
def turn(workdir: Path) -> Iterator[None]:
  """Keeps other programs from writing in a folder; waits for them first."""
  with contextlib.ExitStack() as held:
    while True:
      try:
        held.enter_context(lock(workdir))
        break
      except InUseError:
        time.sleep(_RETRY_SECONDS)
    yield


def mark(workdir: Path) -> int | None:
  """A value that changes while a run holds a folder.

  Returns:
    None if no run holds it, and where trying to lock it tells this at once.

  Raises:
    UnreachableError: if the bucket cannot be reached.
  """
  if isinstance(workdir, pathlib.Path):
    return None
  with bucket.reached(workdir):
    return Lease(workdir).mark()


def require_same_run(config: RunConfig, workdir: Path) -> None:
  """Raises ConfigError if a folder holds a run of another configuration."""
  saved = run_lib.saved_config(workdir)
  if saved is not None:
    config_lib.require_resumable(config, saved)


def as_begun(config: RunConfig, workdir: Path) -> RunConfig:
  """The configuration, with the values that a run in the folder must keep."""
  saved = run_lib.saved_config(workdir)
  return config if saved is None else config_lib.as_begun(config, saved)
