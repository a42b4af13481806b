"""Signals while no run trains, and terminals that are closed."""

from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest
from test_signals import start

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP]

# A minute in C without the interpreter's lock: Python's handlers cannot run.
LONG_CALL = """
import hashlib, os
from okd_jax.devices import early
early.watch()
print("unflushed", end="")
os.write(1, b"ready\\n")
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)
"""

# As in a comparison that waits for its workers, after a run of its own.
OWN = """
import signal, time
from okd_jax.devices import early, signals
early.watch()
with signals.Stop():
  pass
got = []
for number in early.heard():
  signal.signal(number, lambda *seen: got.append(seen))
print("ready", flush=True)
while not got:
  time.sleep(0.01)
print("handled", flush=True)
"""

AFTER = """
import time
from okd_jax.devices import early, signals
early.watch()
with signals.Stop():
  pass
print("ready", flush=True)
time.sleep(100)
"""

# As of nohup.
IGNORED = """
import signal, time
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from okd_jax.devices import early, signals
early.watch()
with signals.Stop() as stop:
  print("ready", flush=True)
  while not stop.requested:
    time.sleep(0.01)
  print("saved", flush=True)
"""

CLOSED = """
import sys, time
from okd_jax.devices import signals
with signals.Stop() as stop:
  print("ready", flush=True)
  while not stop.requested:
    time.sleep(0.01)
  for _ in range(3):
    print("saving", flush=True)
  with open(sys.argv[1], "w") as file:
    file.write("saved")
sys.exit(signals.EXIT_CODE)
"""


# Runs its first argument in a terminal, which it closes.
TERMINAL = """
import os, pty, sys, time
child, terminal = pty.fork()
if child == 0:
  os.execv(sys.executable, [sys.executable, "-c", *sys.argv[1:]])
shown = b""
while b"ready" not in shown:
  shown += os.read(terminal, 1024)
time.sleep(0.5)  # until the line is written in the other process as well
os.close(terminal)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.checklist("A1")
@pytest.mark.parametrize("number", SIGNALS)
def test_a1_what_has_not_begun_ends_at_once(number):
  with start(LONG_CALL) as process:
    process.send_signal(number)
    out, err = process.communicate(timeout=200)
  assert (process.returncode, out) == (75, "unflushed")
  assert (
    err == f"okd_jax: {number.name}: stopped; run the same command again.\n"
  )


def test_another_handler_does_the_work():
  with start(OWN) as process:
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate(timeout=200)
  assert (process.returncode, out) == (0, "handled\n")


def test_what_follows_a_run_ends_at_once():
  with start(AFTER) as process:
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=200)
  assert process.returncode == 75


def test_a_hangup_that_is_ignored_stays_so():
  with start(IGNORED) as process:
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=200)
  assert out == "saved\n" and err.startswith("SIGTERM: stopping after")


@pytest.mark.checklist("A1")
def test_a1_a_run_whose_terminal_is_closed_saves(tmp_path):
  # Not in this process, as JAX must not be forked.
  done = subprocess.run(
    [sys.executable, "-c", TERMINAL, CLOSED, str(tmp_path / "saved")],
    capture_output=True,
    text=True,
    timeout=200,
  )
  assert done.returncode == 75, done.stderr
  assert (tmp_path / "saved").read_text() == "saved"


@pytest.mark.checklist("A1")
@pytest.mark.parametrize(
  "command", [["main.py"], ["-m", "okd_jax", "compare"]], ids=["run", "compare"]
)
def test_a1_programs_answer_while_they_import(command):
  # Python tells what it has imported; JAX takes a while.
  argv = [sys.executable, "-X", "importtime", *command, "--config=none"]
  with subprocess.Popen(
    argv, cwd=ROOT, stderr=subprocess.PIPE, text=True
  ) as process:
    for line in process.stderr:
      if "numpy" in line:
        break
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=200)
  assert process.returncode == 75
  assert "okd_jax: SIGTERM: stopped" in err
