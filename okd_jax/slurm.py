"""Workers on one comparison as an array of SLURM tasks, by submitit."""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import os
import pathlib
import shlex
import signal
import sys

import submitit

from okd_jax.devices import signals
from okd_jax.errors import ConfigError

# How often a task may reach its time limit and be queued again.
_TIMES = 1000
# Between the first signal and the end of a task: for a step and a save.
_SIGNAL_SECONDS = 120
# Of a task, in minutes; it goes on when it is queued again.
_MINUTES = 240


class Task:
  """What one task of the array runs.

  If the worker ends with the code of one that was asked to stop, or submitit's
  signal comes before the time is over, the task is queued again.

  Args:
    command: of a worker.
  """

  def __init__(self, command: Sequence[str]):
    self._command = list(command)
    self._process = 0

  def __call__(self) -> None:
    # submitit's signal goes to all that the task has started.
    self._process = os.posix_spawnp(
      self._command[0],
      self._command,
      os.environ,
      setpgroup=0,
      setsigmask=[signal.SIGUSR2],
    )
    # Not by Popen: a handler that waits, too, would meet its lock.
    _, status = os.waitpid(self._process, 0)
    self._process = 0
    code = os.waitstatus_to_exitcode(status)
    if code == signals.EXIT_CODE:
      os.kill(os.getpid(), signal.SIGUSR2)
    if code:
      sys.exit(code)

  def checkpoint(self) -> submitit.helpers.DelayedSubmission:
    """Stops the worker; called by submitit on its signal."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
      if self._process:
        os.kill(self._process, signal.SIGTERM)
        os.waitpid(self._process, 0)
    return submitit.helpers.DelayedSubmission(Task(self._command))


class _Shown(submitit.SlurmExecutor):
  """For machines without SLURM, where nothing is submitted."""

  @classmethod
  def affinity(cls) -> int:
    return 1


@dataclasses.dataclass(frozen=True)
class Array:
  """Tasks that are workers on one comparison.

  Attributes:
    command: of a worker.
    tasks: number of them; one that starts when nothing is left ends at once.
    at_once: how many of them run at the same time, at most.
    folder: for submitit's files and the tasks' output; all machines see it.
    options: further ones of sbatch, and their values.
  """

  command: Sequence[str]
  tasks: int
  at_once: int
  folder: pathlib.Path
  options: Mapping[str, str]

  def submit(self) -> str:
    """Submits it, and returns its number.

    Raises:
      ConfigError: if this machine does not belong to a cluster, or the options
        are wrong.
    """
    if submitit.SlurmExecutor.affinity() < 0:
      raise ConfigError(
        "--submit=slurm: there is no srun here; give the command on a machine "
        "of the cluster, or add --dry-run to see what would be submitted."
      )
    executor = submitit.SlurmExecutor(self.folder, max_num_timeout=_TIMES)
    self._configure(executor)
    with executor.batch():
      jobs = [executor.submit(Task(self.command)) for _ in range(self.tasks)]
    return str(jobs[0].job_id).partition("_")[0]

  def text(self) -> str:
    """What `submit` would give to sbatch, and what each task would run."""
    executor = _Shown(self.folder, max_num_timeout=_TIMES)
    self._configure(executor)
    executor.parameters["map_count"] = self.tasks
    made = executor._make_submission_file_text(
      executor._submitit_command_str, ""
    )
    return f"{made}\n# each task\n# {shlex.join(self.command)}\n"

  def _configure(self, executor: submitit.SlurmExecutor) -> None:
    given = {key.replace("_", "-"): v for key, v in self.options.items()}
    minutes = given.pop("time", str(_MINUTES))
    if not minutes.isdecimal():
      raise ConfigError(f"--slurm.time={minutes} must be minutes.")
    if "array" in given:
      raise ConfigError("--slurm.array: say how many at once by --workers.")
    executor.update_parameters(
      job_name="okd_compare",
      time=int(minutes),
      nodes=1,
      ntasks_per_node=1,
      array_parallelism=self.at_once,
      signal_delay_s=_SIGNAL_SECONDS,
      stderr_to_stdout=True,
      additional_parameters={"requeue": True} | given,
    )
