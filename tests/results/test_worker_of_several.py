"""A worker of two processes, which train each cell together."""

import json
import os
from pathlib import Path
import signal
import time

import pytest
import several

from okd_jax.devices import signals
from okd_jax.storage.lock import RunLock

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ("-m", "okd_jax", "compare")
# Fails in one process after a step, while the other goes on into a save.
FAILING = """
import sys, jax
from okd_jax import __main__, compare, train
from okd_jax.devices import alive
from okd_jax.errors import RunLockError
compare._FAIL_SECONDS = alive._GRACE_SECONDS = 2
whole = train.finite.check_state
def check(step, state):
  if jax.process_index() == {process}:
    raise {error}("no room")
  whole(step, state)
train.finite.check_state = check
__main__.main(["compare", *sys.argv[1:]])
"""


@pytest.fixture(autouse=True)
def search(monkeypatch):
  found = ROOT, ROOT / "tests" / "support"
  monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, found)))


def flags(workdir, *others):
  """Two cells of three steps; that of a rate of 1e30 diverges."""
  return (
    f"--config={ROOT}/configs/compare_digits.py:smoke",
    "--config.base.peers.num_peers=2",
    "--config.base.mesh.data=2",
    "--config.base.mesh.peer=1",
    "--config.base.epochs=1",
    "--config.base.data.train_examples=60",
    "--config.seeds=(0,)",
    "--config.methods=('independent',)",
    "--config.nets=('toys:Toy',)",
    "--grid.optim.learning_rate=(0.1,1e30)",
    "--only=toys:Toy/baseline*",
    f"--workdir={workdir}",
    *others,
  )


def finish(workers):
  """Exit codes, and what was printed and said."""
  try:
    ends = [worker.communicate(timeout=280) for worker in workers]
  finally:
    for worker in workers:
      worker.kill()
  return [w.returncode for w in workers], *zip(*ends, strict=True)


def accuracies(workdir):
  """The last evaluation of every cell that came to one."""
  found = {}
  for path in workdir.glob("*/*/*/metrics.jsonl"):
    records = map(json.loads, path.read_text().splitlines())
    for record in records:
      if record["kind"] == "eval":
        found[path.parent.relative_to(workdir)] = {
          key: value for key, value in record.items() if key.startswith("test/")
        }
  return found


@pytest.mark.checklist("I2")
def test_it_does_what_one_process_does(tmp_path):
  alone, together = tmp_path / "alone", tmp_path / "together"
  commands = (
    [[*COMMAND, *flags(alone, "--config.base.mesh.data=1")]],
    [[*COMMAND, *flags(together)]] * 2,
  )
  for command in commands:
    codes, outs, errors = finish(several.begin(*command))
    # Cells that fail in all processes end nobody, and all know of them.
    assert set(codes) == {1}, errors
    assert outs[0].count("Cell ") == 2
  for workdir in (alone, together):
    failed = [p for p in workdir.glob("*/*/*/error.txt") if p.read_text()]
    assert len(failed) == 1
    assert "=1e%2B30" in str(failed[0]), failed
    assert all("Cell " not in out for out in outs[1:])
  expected, found = accuracies(alone), accuracies(together)
  assert len(expected) == 1
  assert found.keys() == expected.keys()
  for name, figures in expected.items():
    assert found[name] == pytest.approx(figures, rel=1e-4)


@pytest.mark.parametrize(
  ("error", "process"), [("OSError", 0), ("OSError", 1), ("RunLockError", 0)]
)
@pytest.mark.checklist("I2")
def test_it_ends_where_a_cell_fails_in_one_process(tmp_path, error, process):
  code = FAILING.format(error=error, process=process)
  two = several.begin(*[("-c", code, *flags(tmp_path / "compared"))] * 2)
  codes, _, errors = finish(two)
  assert codes[process] not in (0, signals.EXIT_CODE), errors
  assert codes[1 - process] == codes[process], errors
  assert "no room" in errors[1 - process], errors


@pytest.mark.parametrize("process", [0, 1])
@pytest.mark.checklist("A4")
def test_a_signal_to_one_ends_a_wait_for_other_workers(tmp_path, process):
  workdir = tmp_path / "compared"
  row = "toys:Toy/baseline,optim.learning_rate=0.1"
  command = (*COMMAND, *flags(workdir, f"--only={row}/*"))
  with RunLock(workdir / row / "seed0"):
    two = several.begin(*[command] * 2)
    try:
      while "Waiting for what others train" not in two[0].stdout.readline():
        assert two[0].poll() is None, two[0].stderr.read()
      time.sleep(1)  # process 0 has said so, and looks again
      two[process].send_signal(signal.SIGTERM)
    finally:
      codes, _, errors = finish(two)
  assert codes == [signals.EXIT_CODE] * 2, errors
  assert "Stopped between two cells" in errors[0] + errors[1], errors
  # And not because no step has ended for too long.
  assert "no step has ended" not in errors[0] + errors[1], errors
