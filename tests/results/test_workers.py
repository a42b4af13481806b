"""Several workers on one comparison, some of which die."""

import contextlib
import itertools
import json
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import threading
import time

import jax
import pytest

import cells
from okd_jax import __main__, workers
from okd_jax.devices import distributed, signals
from okd_jax.errors import (
  ConfigError,
  Interrupted,
  RunLockError,
  UnreachableError,
)
from okd_jax.results import grid, grid_flags, rows
from okd_jax.results.board import Board
from okd_jax.results.share import Share
from okd_jax.runs import workdir as workdir_lib
from okd_jax.settings import freeze
from okd_jax.storage.lock import RunLock

ROOT = Path(__file__).resolve().parents[2]
SEARCH = (ROOT, ROOT / "tests" / "support")
BASE = cells.small().base  # on one device
NAMES = [
  f"resnet8/{row}/seed{seed}"
  for row in ("baseline", "independent", "kd_teacher", "kd")
  for seed in (0, 1)
]


@pytest.fixture
def log(tmp_path, monkeypatch):
  """The file in which cells say when they begin and end."""
  path = tmp_path / "log"
  path.touch()
  monkeypatch.setenv("CELLS_LOG", str(path))
  monkeypatch.setenv("CELLS_SECONDS", "0.4")
  monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, SEARCH)))
  monkeypatch.setattr(workers, "PROGRAM", cells.PROGRAM)
  return path


def told(log, what):
  """Cells and processes, in the order in which they began or ended."""
  lines = [line.split(" ") for line in log.read_text().splitlines()]
  return [(name, int(pid)) for word, name, pid in lines if word == what]


def wait_for(log, count):
  until = time.monotonic() + 120
  while len(told(log, "begin")) < count:
    assert time.monotonic() < until, log.read_text()
    time.sleep(0.02)


def require_whole(log, workdir, killed):
  """Every cell has ended once, and begun again only after it was stopped."""
  ended = [name for name, _ in told(log, "end")]
  assert sorted(ended) == sorted(NAMES)
  assert len(told(log, "begin")) <= len(NAMES) + killed
  assert (workdir / "table.md").read_text().count("| 2 of 2 |") == 4
  for seed in (0, 1):
    teacher = f"resnet8/kd_teacher/seed{seed}"
    assert ended.index(teacher) < ended.index(f"resnet8/kd/seed{seed}")


@pytest.mark.long
@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.checklist("A2", "I2")
def test_no_cell_twice_and_none_lost(tmp_path, log, kills, monkeypatch):
  """Each worker that is killed is followed by another one."""
  seconds = 0.4 if kills == 1 else 4.0
  monkeypatch.setenv("CELLS_SECONDS", str(seconds))
  workdir, rng = tmp_path / "compared", random.Random(kills)
  command = [*cells.PROGRAM, *cells.flags(workdir)]

  def start():
    return subprocess.Popen(
      command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )

  running = [start(), start()]
  for number in range(kills):
    wait_for(log, number + 2)
    time.sleep(rng.random() * seconds)
    victim = running.pop(rng.randrange(2))
    victim.kill()
    victim.communicate()
    if number + 1 < kills:
      running.append(start())
  for worker in running:
    out, _ = worker.communicate(timeout=240)
    assert worker.returncode == 0, out
  require_whole(log, workdir, kills)


@pytest.mark.slow
@pytest.mark.checklist("A2")
def test_cells_that_are_trained_outlive_their_workers(tmp_path, monkeypatch):
  """Two are killed while they train; two others find what they have saved."""
  monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, SEARCH)))
  flags = ["--config.base.epochs=20", "--config.base.checkpoint_secs=1e-9"]
  flags += ["--config.nets=('toys:Toy',)", "--config.teacher_net=toys:Toy"]
  workdir = tmp_path / "compared"
  command = [sys.executable, "-m", "okd_jax", "compare"]
  command += cells.flags(workdir, "--config.seeds=(0,)", *flags)
  logs = [(tmp_path / str(number)).open("w") for number in range(4)]

  def start(log):
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

  killed = [start(log) for log in logs[:2]]
  until = time.monotonic() + 200
  while len(list(workdir.glob("*/*/*/checkpoints/*.manifest.json"))) < 4:
    assert time.monotonic() < until
    time.sleep(0.05)
  for worker in killed:
    worker.kill()
    worker.wait()
  for worker in [start(log) for log in logs[2:]]:
    assert worker.wait(timeout=200) == 0
  for log in logs:
    log.close()
  assert (workdir / "table.md").read_text().count("| 1 of 1 |") == 4
  for metrics in workdir.glob("*/*/*/metrics.jsonl"):
    records = map(json.loads, metrics.read_text().splitlines())
    steps = [record["step"] for record in records if record["kind"] == "eval"]
    assert steps == [3 * epoch for epoch in range(1, 21)]


def command(*args):
  with pytest.raises(SystemExit) as left:
    __main__.main(["compare", *args])
    sys.exit(0)
  return left.value.code


@pytest.mark.long
@pytest.mark.checklist("A1")
def test_one_command_starts_and_stops_them(tmp_path, log, monkeypatch, capsys):
  monkeypatch.setattr(workers, "_devices", lambda: ("cpu", 1))
  monkeypatch.setenv("CELLS_SECONDS", "600")  # so that none ends by itself
  workdir = tmp_path / "compared"
  flags = cells.flags(workdir, "--workers=2")

  def stop():
    wait_for(log, 2)
    os.kill(os.getpid(), signal.SIGTERM)

  stopper = threading.Thread(target=stop)
  stopper.start()
  assert command(*flags) == signals.EXIT_CODE
  stopper.join()
  shown = capsys.readouterr()
  assert "8 of 8 cells left; the same command goes on" in shown.err
  assert "stopping" in shown.out
  for _, process in told(log, "begin"):
    with pytest.raises(ProcessLookupError):
      os.kill(process, 0)

  monkeypatch.setenv("CELLS_SECONDS", "0")
  assert command(*flags) == 0
  out = capsys.readouterr().out
  assert "8 of 8 cells done, 0 running, 0 failed" in out
  assert "epochs: last epoch" in out
  require_whole(log, workdir, 2)
  logs = sorted((workdir / "workers").iterdir())
  assert [path.name[-6:] for path in logs] == ["-1.log", "-2.log"]
  assert "Cell " in "".join(path.read_text() for path in logs)

  monkeypatch.setattr(workers, "PROGRAM", (sys.executable, "-c", "1"))
  (workdir / NAMES[0] / "summary.json").unlink()
  assert command(*flags) == 1
  assert "and 1 cells are left; why they ended" in capsys.readouterr().err


SLEEPS = (sys.executable, "-c", "import time; time.sleep(600)")
TWO = [workers.Place("one"), workers.Place("two")]


def test_two_commands_of_one_machine_have_logs_of_their_own(
  tmp_path, monkeypatch
):
  begun = []
  for command, cell in enumerate(NAMES[:2], 1):
    monkeypatch.setattr(os, "getpid", lambda command=command: command)
    says = (sys.executable, "-c", f"print('Cell 1 of 8: {cell}')")
    begun.append(workers._start(1, TWO[0], says, tmp_path))
  for worker in begun:
    worker.process.wait()
  assert [worker.said()[0] for worker in begun] == NAMES[:2]


def begun_by(monkeypatch, then):
  """The workers that are started, each followed by something."""
  start, begun = workers._start, []

  def start_and(*args):
    begun.append(start(*args))
    then(len(begun))
    return begun[-1]

  monkeypatch.setattr(workers, "_start", start_and)
  return begun


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_workers_start_reaches_them(
  listed, tmp_path, monkeypatch, sent
):
  begun = begun_by(monkeypatch, lambda number: os.kill(os.getpid(), sent))
  with pytest.raises(Interrupted, match="Stopped with 8 of 8 cells left"):
    workers.run(listed, SLEEPS, tmp_path, TWO)
  (worker,) = begun  # no second one
  assert worker.process.wait(60) == -signal.SIGTERM


def test_a_worker_that_cannot_be_started_leaves_none(
  listed, tmp_path, monkeypatch
):
  def fail(number):
    if number == 2:
      raise OSError("no memory")

  begun = begun_by(monkeypatch, fail)
  with pytest.raises(OSError, match="no memory"):
    workers.run(listed, SLEEPS, tmp_path, TWO)
  assert begun[0].process.wait(60) == -signal.SIGTERM
  begun[1].process.kill()
  begun[1].process.wait()


@pytest.fixture
def listed(tmp_path):
  return cells.listed(tmp_path)


def going():
  """No signal has come."""
  return False


def test_rows_are_spread_and_teachers_waited_for(listed):
  with contextlib.ExitStack() as held:
    share = Share(listed)
    order = [share.take(held, going) for _ in range(6)]
    assert order == NAMES[:6]
    # What one has another does not get, nor those that learn from it.
    beside, looks = Share(listed), itertools.count()
    assert beside.take(held, lambda: next(looks) >= 30) == ""
  with RunLock(listed[0].workdir), contextlib.ExitStack() as held:
    third = Share(listed)
    assert third.take(held, going) == "resnet8/independent/seed0"
    assert third.take(held, going) == "resnet8/independent/seed1"


def test_failures_of_others_are_taken_over(listed):
  chosen = listed[:1]
  with contextlib.ExitStack() as held:
    share, beside = Share(chosen), Share(chosen)
    assert share.take(held, going)
    share.fail(chosen[0], ValueError("at 7"))
  assert beside.take(held, going) == ""
  assert beside.failed == {chosen[0].name: "ValueError: at 7"}
  # Of before: once more, or never.
  assert Share(chosen, skip_failed=True).take(held, going) == ""
  with contextlib.ExitStack() as held:
    assert Share(chosen).take(held, going) == chosen[0].name
    workers.forget_failures(chosen)
    assert (chosen[0].workdir / rows.ERROR).exists()
  workers.forget_failures(chosen)
  assert not (chosen[0].workdir / rows.ERROR).exists()


@pytest.mark.parametrize("where", ["lock", "finished", "failure"])
def test_an_outage_while_a_cell_is_settled_ends_the_worker(
  listed, monkeypatch, where
):
  kind = RunLockError if where == "lock" else UnreachableError
  share = Share(listed)

  def refuse(*args):
    raise kind("gs://a cannot be reached")

  module = workdir_lib if where == "lock" else rows
  monkeypatch.setattr(module, where, refuse)
  with contextlib.ExitStack() as held, pytest.raises(kind):
    share.take(held, going)
  assert not share.failed
  assert not (listed[0].workdir / rows.ERROR).exists()
  with RunLock(listed[0].workdir):
    pass


@pytest.mark.parametrize(
  "pattern, names",
  [
    ("*", NAMES),
    ("resnet8/independent/*", NAMES[2:4]),
    ("*/seed1", NAMES[1::2]),
    # With the teacher that it needs.
    ("resnet8/kd/seed0", ["resnet8/kd_teacher/seed0", "resnet8/kd/seed0"]),
  ],
)
def test_a_pattern_restricts_a_worker(listed, pattern, names):
  assert [cell.name for cell in grid.only(listed, pattern)] == names


def test_rows_of_a_grid_are_named_by_their_method(tmp_path):
  config = cells.small(methods=("independent", "dml"))
  config = grid_flags.ranged(config, {"optim.learning_rate": "(0.1,0.2)"})
  found = grid.only(grid.cells(config, tmp_path), "resnet8/dml/seed0")
  assert [cell.values["optim.learning_rate"] for cell in found] == [0.1, 0.2]


def test_a_pattern_for_nothing_says_what_there_is(listed):
  with pytest.raises(ConfigError) as refused:
    grid.only(listed, "resnet8/dml/*")
  text = str(refused.value)
  assert "--only=resnet8/dml/* names none of the 8 cells" in text
  assert "methods baseline, independent, kd_teacher, kd; seeds seed0" in text


@pytest.mark.parametrize(
  "asked, devices, message",
  [
    ("0", ("cpu", 1), "a number, or auto"),
    ("many", ("cpu", 1), "a number, or auto"),
    ("2", ("tpu", 4), "must be 1 on tpu"),
  ],
)
def test_wrong_numbers_are_refused(asked, devices, message, monkeypatch):
  monkeypatch.setattr(workers, "_devices", lambda: devices)
  with pytest.raises(ConfigError, match=message):
    workers.places(asked, BASE)


def test_workers_of_several_processes_are_refused(monkeypatch):
  monkeypatch.setattr(distributed, "expected", lambda: True)
  with pytest.raises(ConfigError, match="runs of their own"):
    workers.places("2", BASE)


def test_a_machine_is_divided(monkeypatch):
  devices = "gpu", 2
  monkeypatch.setattr(workers, "_devices", lambda: devices)
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
  shown = [dict(place.environ) for place in workers.places("auto", BASE)]
  assert shown == [{"CUDA_VISIBLE_DEVICES": card} for card in "01"]
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
  found = workers.places("4", BASE)
  assert [place.name for place in found] == ["GPU 3", "GPU 5"] * 2
  fractions = {p.environ[1] for p in found}
  assert fractions == {("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.450")}
  devices = "tpu", 4
  assert [place.name for place in workers.places("auto", BASE)] == ["tpu"]
  devices = "cpu", 1
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 3, 4, 7})
  assert [sorted(p.cores) for p in workers.places("2", BASE)] == [
    [0, 2],
    [3, 4, 7],
  ]
  assert [sorted(p.cores) for p in workers.places("6", BASE)][0] == [0]
  # Four networks on a core each, and one core for nobody.
  four = freeze.replace(BASE, {"peers.num_peers": 4, "mesh.data": -1})
  assert [len(p.cores) for p in workers.places("auto", four)] == [5]
  assert len(workers.places("auto", BASE)) == 5


def test_jax_is_asked_for_devices():
  assert workers._devices() == ("cpu", jax.local_device_count())


def test_a_board_counts_what_lies_in_the_folders(listed, capsys):
  cells.pretend(listed[0].config, listed[0].workdir)
  board = Board(listed)
  with board.live():
    running = [
      ("GPU 0", listed[1].name, "epoch 1/3"),
      ("GPU 1", "", ""),
      ("GPU 2", listed[0].name, "it is done and writes tables"),
    ]
    board.show(running)
    board.show(running)
    for cell in listed[1:4]:
      cells.pretend(cell.config, cell.workdir)
    (listed[3].workdir / rows.ERROR).write_text("ValueError: no\n\ntrace")
    board._began -= 90
    board.show([], stopping=True)
  assert list(board.left) == NAMES[4:]
  assert board.failed == {NAMES[3]: "ValueError: no"}
  assert capsys.readouterr().out.splitlines() == [
    f"1 of 8 cells done, 1 running, 0 failed, ETA -:--:--: {NAMES[1]}",
    "3 of 8 cells done, 0 running, 1 failed, stopping, ETA 0:02:00",
  ]


def test_a_board_outlives_a_bucket_out_of_reach(listed, monkeypatch, capsys):
  board = Board(listed)

  def away(cell):
    raise UnreachableError("nobody answers")

  with monkeypatch.context() as patch:
    patch.setattr(rows, "failure", away)
    board.show([])
  cells.pretend(listed[0].config, listed[0].workdir)
  board.show([])
  counts = [line.split(",")[0] for line in capsys.readouterr().out.splitlines()]
  assert counts == ["0 of 8 cells done", "1 of 8 cells done"]


def test_a_failure_may_be_taken_back_at_any_moment(listed, monkeypatch):
  """Another worker has trained the cell, and removes what was written."""
  exists = Path.exists
  error = listed[0].workdir / rows.ERROR
  error.parent.mkdir(parents=True)
  error.write_text("ValueError: no")

  def removed_by_another(path):
    found = exists(path)
    if path == error:
      path.unlink(missing_ok=True)
    return found

  monkeypatch.setattr(Path, "exists", removed_by_another)
  assert rows._outcome(listed[0])[1] == "ValueError: no"
  Board(listed).show([])


def test_a_terminal_sees_every_worker(listed, monkeypatch, capsys):
  monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
  board = Board(listed)
  with board.live():
    board.show([("GPU 1", listed[1].name, "epoch 1/3 [3]"), ("GPU 2", "", "")])
  out = capsys.readouterr().out
  assert f"GPU 1: {listed[1].name}  epoch 1/3 [3]" in out
  assert "GPU 2: waiting" in out
