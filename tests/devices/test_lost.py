"""Processes of a run that are killed, stopped or fail: the others end, too."""

import random
import resource
import signal
import socket
import time

import pytest
import several
import test_processes as pairs

from okd_jax.devices import alive
from okd_jax.storage.checkpoint import Checkpoints

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

# Two processes in one collective after another.
TOGETHER = """
import os, sys, time
from okd_jax.cli import common
from okd_jax.devices import alive, distributed, signals
from okd_jax.errors import DataError
alive._SILENT_SECONDS, alive._GRACE_SECONDS = 2.0, 0.5
with common.exit_codes():
  distributed.initialize()
  signals.agree(False)
  os.write(1, b"ready\\n")
  last = os.environ["JAX_PROCESS_ID"] == "1"
  {then}
"""
FOR_EVER = "while True: signals.agree(False)"


def two(code):
  """Starts two processes of it, and waits until they are in touch."""
  processes = several.begin(*[("-c", code)] * 2)
  for process in processes:
    for line in process.stdout:  # Gloo says hello first, at times unended
      if line.endswith("ready\n"):
        break
    else:
      pytest.fail(process.stderr.read())
  return processes


def lost(processes, number, victim):
  """Sends a signal; how the other one ended, after what time, its words."""
  try:
    processes[victim].send_signal(number)
    began = time.monotonic()
    other = processes[1 - victim]
    _, said = other.communicate(timeout=120)
    return other.returncode, time.monotonic() - began, said
  finally:
    for process in processes:
      process.kill()
      process.communicate()


@pytest.mark.checklist("A5")
@pytest.mark.parametrize(
  "number, victim",
  [
    (signal.SIGKILL, 0),
    pytest.param(signal.SIGKILL, 1, marks=pytest.mark.slow),
    pytest.param(signal.SIGSTOP, 0, marks=pytest.mark.slow),
    pytest.param(signal.SIGSTOP, 1, marks=pytest.mark.slow),
  ],
)
def test_a_lost_process_ends_the_other(number, victim):
  processes = two(TOGETHER.format(then=FOR_EVER))
  code, _, said = lost(processes, number, victim)
  assert code == 75, said
  host, pid = socket.gethostname(), processes[victim].pid
  assert f"process {victim} (host {host}, process id {pid}) " in said
  assert f"This one, process {1 - victim}, stops too" in said
  assert "Traceback" not in said


def test_it_is_known_where_process_0_was_before_the_first_beat():
  never = "alive._Watch._beat = lambda self: None\nwith common"
  code = TOGETHER.format(then=FOR_EVER).replace("with common", never)
  processes = two(code)
  code, _, said = lost(processes, signal.SIGKILL, 0)
  assert code == 75, said
  assert f"process id {processes[0].pid}) is gone" in said


@pytest.mark.slow
@pytest.mark.checklist("A5")
@pytest.mark.parametrize(
  "what, code, message",
  [
    ("DataError('no pictures')", 3, "ended with code 3: no pictures"),
    ("KeyError('x')", 1, "ended with code 1: KeyError: 'x'"),
  ],
)
def test_a_failure_of_one_process_ends_the_other(what, code, message):
  then = f"if last: raise {what}\n  {FOR_EVER}"
  processes = two(TOGETHER.format(then=then))
  said = [each.communicate(timeout=60)[1] for each in processes]
  assert [each.returncode for each in processes] == [code, code], said
  assert f"process id {processes[1].pid}) {message}" in said[0]
  assert "stops too" not in said[1]


@pytest.mark.slow
def test_who_is_done_waits_for_the_others():
  """Longer than what counts as lost, and none of them is."""
  processes = two(TOGETHER.format(then="time.sleep(0 if last else 5)"))
  said = [each.communicate(timeout=60)[1] for each in processes]
  assert [each.returncode for each in processes] == [0, 0], said


@pytest.mark.parametrize("late", ["0", "1"])
def test_who_is_done_ends_with_one_that_fails_later(late):
  fail = "raise DataError('no pictures')"
  then = f"if os.environ['JAX_PROCESS_ID'] == '{late}': time.sleep(2); {fail}"
  processes = two(TOGETHER.format(then=then))
  said = [each.communicate(timeout=60)[1] for each in processes]
  assert [each.returncode for each in processes] == [3, 3], said
  assert "ended with code 3: no pictures" in said[1 - int(late)]


def train(workdir, *flags, **more):
  """A run on two devices, one a process."""
  return pairs.job(
    *(workdir, "dml", "2x2", "--config.peers.num_peers=2"),
    *("--config.mesh.data=1", "--config.epochs=40", *flags),
    **more,
  )


def wait_for_a_save(workdir, processes, newest=0):
  checkpoints = Checkpoints(workdir / "checkpoints")
  while max(checkpoints.steps(), default=0) <= newest:
    assert all(process.poll() is None for process in processes)
    time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.checklist("A5", "F1")
@pytest.mark.parametrize("victim", [0, 1])
def test_a_disk_that_fails_in_one_process_ends_both(tmp_path, victim):
  processes = pairs.begin([train(tmp_path, pairs.OFTEN)], num_devices=1)
  wait_for_a_save(tmp_path, processes)
  # From now on it can write no byte to a file.
  pid = processes[victim].pid
  resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))
  codes, said = pairs.finish(processes, 120)
  assert codes == [5, 5], said
  assert all("File too large" in text for text in said), said
  # Orbax logs a traceback of its own before that.
  assert all("\nokd_jax: " in "\n" + text for text in said), said
  assert Checkpoints(tmp_path / "checkpoints").latest_verified()


def in_two(jobs):
  codes, said = pairs.finish(pairs.begin(jobs, num_devices=1), 500)
  assert codes == [0, 0], said


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.checklist("A5")
def test_ten_losses_change_nothing(tmp_path):
  """One run, whose processes are killed and stopped in turn."""
  rng = random.Random(0)
  in_two([train(tmp_path / "quiet")])
  workdir = tmp_path / "harmed"
  checkpoints = Checkpoints(workdir / "checkpoints")
  for attempt in range(10):
    before = max(checkpoints.steps(), default=0)
    job = train(workdir, pairs.OFTEN, silent_secs=5)
    processes = pairs.begin([job], num_devices=1)
    wait_for_a_save(workdir, processes, before + rng.randint(0, 12))
    number = (signal.SIGKILL, signal.SIGSTOP)[attempt // 2 % 2]
    victim = attempt % 2
    code, seconds, said = lost(processes, number, victim)
    assert code == 75, said
    assert seconds < 30
    assert f"process id {processes[victim].pid}) " in said
    assert checkpoints.latest_verified() > before
  in_two([train(workdir)])
  pairs.assert_equal_runs(workdir, tmp_path / "quiet")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_in_less_than_two_minutes(number):
  """With the times of a real run."""
  code = TOGETHER.format(then=FOR_EVER)
  code = code.replace("_SILENT_SECONDS", "_UNUSED")
  processes = two(code)
  code, seconds, said = lost(processes, number, 1)
  assert code == 75, said
  assert alive._SILENT_SECONDS <= seconds + 2 < 120


LATE = """
import os, time
from okd_jax.cli import common
from okd_jax.devices import distributed, signals
with common.exit_codes():
  distributed.initialize()
  if os.environ["JAX_PROCESS_ID"] == "1":
    time.sleep(40)
  assert not signals.agree(False)
"""


@pytest.mark.slow
def test_a_process_that_is_late_is_waited_for():
  """Gloo alone waits 30 s."""
  codes, said = pairs.finish(several.begin(*[("-c", LATE)] * 2), 300)
  assert codes == [0, 0], said
