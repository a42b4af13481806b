"""Signals stop a run without losing it; one run has one workdir.

The letters are rows of the reliability table of the README.
"""

from collections.abc import Iterator
import contextlib
import errno
import json
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import ports
import pytest

from okd_jax.devices import signals
from okd_jax.errors import RunLockError
from okd_jax.storage import files
from okd_jax.storage.checkpoint import Checkpoints
from okd_jax.storage.lock import RunLock

pytestmark = pytest.mark.long

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP]

LOOP = """
import sys, time
from okd_jax.devices.signals import EXIT_CODE, Stop
with Stop() as stop:
  print("ready", flush=True)
  while not stop.requested:
    time.sleep(0.01)
  print("saved", flush=True)
sys.exit(EXIT_CODE)
"""

# A minute in C without the interpreter's lock: Python's handlers cannot run.
LONG_CALL = """
import hashlib, os
from okd_jax.devices.signals import Stop
with Stop() as stop, stop.busy("compiling"):
  print("unflushed", end="")
  os.write(1, b"ready\\n")
  hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)
"""

COMPILE = """
import os
import jax, jax.numpy as jnp
from okd_jax.devices.signals import Stop
def chain(x):
  for i in range(3000):
    x = jnp.sin(x) @ x + i
  return x
with Stop() as stop:
  lowered = jax.jit(chain).lower(jnp.ones((8, 8)))
  with stop.busy("compiling"):
    print("unflushed", end="")
    os.write(1, b"ready\\n")
    lowered.compile()
"""

# An echo may come as late as the test sends it.
DEAF = """
import sys, time
from okd_jax.devices import signals
signals.ECHO_SECONDS = float(sys.argv[1])
with signals.Stop() as stop:
  print("ready", flush=True)
  while True:
    time.sleep(0.01)
"""


@contextlib.contextmanager
def start(code: str, *args: str) -> Iterator[subprocess.Popen[str]]:
  """Runs code until it says that it is ready; kills what is left of it."""
  with subprocess.Popen(
    [sys.executable, "-c", code, *args],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env={**os.environ, "PYTHONUNBUFFERED": ""},
  ) as process:
    try:
      wait_for_ready(process)
      yield process
    finally:
      process.kill()


def wait_for_ready(process: subprocess.Popen[str]) -> None:
  assert process.stdout is not None
  for line in process.stdout:  # Gloo says hello first, at times unended
    if line.endswith("ready\n"):
      return
  pytest.fail(f"ended with {process.wait()} before it was ready")


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.checklist("A1")
def test_a1_loop_finishes_its_step(number: signal.Signals):
  with start(LOOP) as process:
    process.send_signal(number)
    out, err = process.communicate(timeout=200)
  assert process.returncode == 75
  assert out == "saved\n"
  assert err.startswith(f"{number.name}: stopping after this step")


@pytest.mark.parametrize(
  "number, code",
  [*((number, LONG_CALL) for number in SIGNALS), (signal.SIGTERM, COMPILE)],
)
@pytest.mark.checklist("A1")
def test_a1_compilation_is_cut_off(number: signal.Signals, code: str):
  with start(code) as process:
    process.send_signal(number)
    out, err = process.communicate(timeout=200)
  # A call that had come to its end would have let the program end with 0.
  assert process.returncode == 75
  assert out == "unflushed"
  assert err == (
    f"{number.name} while compiling: stopping now, the last save stands.\n"
  )


@pytest.mark.checklist("A1")
def test_a1_second_signal_stops_at_once():
  with start(DEAF, "0") as process:
    assert process.stderr is not None
    process.send_signal(signal.SIGTERM)
    assert "stopping after this step" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=200)
  assert process.returncode == 75
  assert err.startswith("Second signal (SIGINT)")


@pytest.mark.checklist("A1")
def test_a1_the_echo_of_a_signal_changes_nothing():
  """The same once more, as launchers pass it on."""
  with start(DEAF, "1000") as process:
    assert process.stderr is not None
    process.send_signal(signal.SIGTERM)
    assert "stopping after this step" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None


# Waits in C, as for a process that has died.
HUNG = """
import hashlib, os, threading
from okd_jax.devices import signals
signals._HUNG_SECONDS = 1.0
with signals.Stop() as stop:
  stop.agreed()
  print("unflushed", end="")
  os.write(1, b"ready\\n")
  hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)
"""

# A step takes longer than what counts as hung after a signal. Whatever else
# holds this process up takes less.
SLOW = """
import sys, time
from okd_jax.devices import signals
signals._HUNG_SECONDS = 3.0
with signals.Stop() as stop:
  {expected}
  print("ready", flush=True)
  while not stop.requested:
    time.sleep(0.01)
  {slow}
  assert stop.agreed()
  time.sleep(4)  # the last save
  print("saved", flush=True)
sys.exit(signals.EXIT_CODE)
"""


@pytest.mark.checklist("A1")
def test_a1_a_hung_run_answers():
  with start(HUNG) as process:
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=200)
  assert time.monotonic() - begin >= 1
  assert process.returncode == 75
  assert out == "unflushed"
  first, second = err.splitlines()
  assert first.startswith("SIGTERM: stopping after this step")
  assert second.startswith("SIGTERM: no step has ended for ")
  assert second.endswith("stopping now, the last save stands.")


@pytest.mark.checklist("A1")
@pytest.mark.parametrize(
  "expected, slow",
  [
    ("stop.expect(4)", "time.sleep(4)"),
    ("pass", "[(time.sleep(0.2), stop.progress()) for _ in range(20)]"),
  ],
)
def test_a1_a_long_step_is_not_cut_off(expected: str, slow: str):
  with start(SLOW.format(expected=expected, slow=slow)) as process:
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=200)
  assert process.returncode == 75
  assert out == "saved\n"
  assert err.startswith("SIGTERM: stopping after this step")


def test_handlers_come_and_go():
  before = [signal.getsignal(number) for number in SIGNALS]
  with signals.Stop() as stop:
    assert not stop.requested and not stop.agreed()
    with stop.busy("compiling"), stop.busy("compiling evaluation"):
      pass
    os.kill(os.getpid(), signal.SIGTERM)
    deadline = time.monotonic() + 30
    while not stop.requested and time.monotonic() < deadline:
      time.sleep(0.01)
    assert stop.requested and stop.agreed()
  assert [signal.getsignal(number) for number in SIGNALS] == before
  assert signal.set_wakeup_fd(-1) == -1
  assert stop.requested


def test_busy_ends_with_an_error():
  stop = signals.Stop()
  with pytest.raises(ValueError), stop.busy("compiling"):
    raise ValueError
  assert stop._busy == []


# Two processes count steps together; both save and stop where they agree.
TOGETHER = """
import os, sys, time
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
os.environ["JAX_PLATFORMS"] = "cpu"
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
port, index, workdir = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(f"localhost:{port}", 2, index)
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from okd_jax.storage.checkpoint import Checkpoints
from okd_jax.devices.signals import EXIT_CODE, Stop
mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
def wanted(*spec):
  sharding = NamedSharding(mesh, PartitionSpec(*spec))
  return jax.ShapeDtypeStruct((4,), np.float32, sharding=sharding)
checkpoints = Checkpoints(workdir)
with Stop() as stop:
  like = {"split": wanted("data"), "whole": wanted(), "n": 0}
  state, step, _ = checkpoints.restore(like)
  print("ready", flush=True)
  while not stop.agreed():
    step += 1
    time.sleep(0.01)
  checkpoints.save(step, state, wait=True)
  print("stopped at", step, flush=True)
sys.exit(EXIT_CODE)
"""


@pytest.mark.checklist("A4")
def test_a4_two_processes_stop_at_the_same_step(tmp_path: Path):
  # Saved by one process, restored and saved by two, restored by one again.
  state = {
    "split": np.arange(4, dtype=np.float32),
    "whole": np.ones(4, np.float32),
    "n": 3,
  }
  Checkpoints(tmp_path).save(1, state, wait=True)
  port = str(ports.free())
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", TOGETHER, port, str(i), str(tmp_path)],
      stdout=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  try:
    for process in processes:
      wait_for_ready(process)
    processes[1].send_signal(signal.SIGTERM)
    said = [
      process.communicate(timeout=120)[0].partition("stopped at")[2]
      for process in processes
    ]
    assert said[0] and said[0] == said[1]
    assert [process.returncode for process in processes] == [75, 75]
  finally:
    for process in processes:
      process.kill()
      process.communicate()
  step = int(said[0])
  assert step > 1
  restored, found, _ = Checkpoints(tmp_path).restore(state)
  assert found == step
  assert restored["n"] == 3
  np.testing.assert_array_equal(restored["split"], state["split"])
  np.testing.assert_array_equal(restored["whole"], state["whole"])


HOLD = """
import sys, time
from okd_jax.storage.lock import RunLock
with RunLock(sys.argv[1]):
  print("ready", flush=True)
  time.sleep(100)
"""


@pytest.mark.checklist("I2")
def test_i2_second_run_is_refused_and_a_stale_lock_recovered(tmp_path: Path):
  workdir = tmp_path / "run"
  with start(HOLD, str(workdir)) as process:
    with pytest.raises(RunLockError) as error, RunLock(workdir):
      pass
    assert socket.gethostname() in str(error.value)
    assert f"process id {process.pid})" in str(error.value)
    process.kill()
    process.wait()
  owner = workdir / "run.lock.json"
  assert json.loads(owner.read_text())["pid"] == process.pid
  with RunLock(workdir):
    assert json.loads(owner.read_text())["pid"] == os.getpid()
    with pytest.raises(RunLockError, match=f"process id {os.getpid()}"):
      RunLock(workdir).acquire()
  assert not owner.exists()
  with RunLock(workdir):
    pass


@pytest.mark.checklist("I2")
def test_i2_damaged_owner_and_unusable_workdir(tmp_path: Path):
  with RunLock(tmp_path):
    (tmp_path / "run.lock.json").write_text("{")
    with pytest.raises(RunLockError, match="has not said who"):
      RunLock(tmp_path).acquire()
  (tmp_path / "file").write_text("")
  with pytest.raises(RunLockError, match="cannot be locked"):
    RunLock(tmp_path / "file" / "run").acquire()


@pytest.mark.checklist("F1")
def test_a_lock_whose_owner_cannot_be_told_is_given_back(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
  def full(path: Path, content: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

  lock = RunLock(tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(files, "write", full)
    with pytest.raises(RunLockError, match="No space left on device"):
      lock.acquire()
  with RunLock(tmp_path):
    pass
