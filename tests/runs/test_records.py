"""What a run writes and shows; I1 is a row of the reliability table."""

import csv
import io
import json
import logging
import math
import os
from pathlib import Path
import pty
import struct
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from okd_jax.errors import CheckpointError
from okd_jax.runs import display, records
from okd_jax.runs.display import Display
from okd_jax.tasks.figure import of_record as figures_of
from okd_jax.tasks.measure import Measure
from okd_jax.training.clock import Clock

HEADLINE = Measure("accuracy", "top-1")

TRAIN = {"loss": 2.5, "peer_ce": jnp.asarray(1.25), "peer_kd": np.float32(0.5)}
EVALUATION = {
  "test/leader/accuracy": 0.4512,
  "test/peer_0/accuracy": 0.44,
  "test/peer_1/accuracy": 0.42,
  "test/peers_mean/accuracy": 0.43,
  "test/ensemble/accuracy": 0.5,
  "test/leader/cross_entropy": 1.5,
  "test/diversity": 0.25,
}


def run(workdir: Path, steps: range, resume_step: int | None = None) -> None:
  with records.Writer(workdir, resume_step=resume_step) as writer:
    for step in steps:
      writer.write(step, {"loss": 1 / step})
      if step % 2 == 0:
        writer.write(step, {"test/leader/accuracy": step / 10}, kind="eval")


def test_lines_and_table(tmp_path: Path):
  with records.Writer(tmp_path, tensorboard=False) as writer:
    writer.write(1, TRAIN)
    writer.write(2, {"test/leader/accuracy": 0.5}, kind="eval")
    with (tmp_path / "metrics.csv").open() as file:
      assert len(list(csv.reader(file))) == 3, "written at the evaluation"
    writer.write(3, {"loss": 2.0, "rampup": 1.0})
  assert (tmp_path / "metrics.jsonl").read_text().splitlines() == [
    '{"step": 1, "kind": "train", "loss": 2.5, "peer_ce": 1.25, '
    '"peer_kd": 0.5}',
    '{"step": 2, "kind": "eval", "test/leader/accuracy": 0.5}',
    '{"step": 3, "kind": "train", "loss": 2.0, "rampup": 1.0}',
  ]
  with (tmp_path / "metrics.csv").open() as file:
    rows = list(csv.reader(file))
  assert rows == [
    ["step", "kind", "loss", "peer_ce", "peer_kd"]
    + ["test/leader/accuracy", "rampup"],
    ["1", "train", "2.5", "1.25", "0.5", "", ""],
    ["2", "eval", "", "", "", "0.5", ""],
    ["3", "train", "2.0", "", "", "", "1.0"],
  ]
  assert not list(tmp_path.glob("*.tmp"))
  assert not (tmp_path / "tensorboard").exists()


def test_not_finite_values_stay_json(tmp_path: Path):
  with records.Writer(tmp_path, tensorboard=False) as writer:
    writer.write(1, {"loss": math.nan, "grad_norm": math.inf})
  line = (tmp_path / "metrics.jsonl").read_text()
  assert json.loads(line, parse_constant=pytest.fail)["loss"] is None
  (record,) = records.read_metrics(tmp_path)
  assert math.isnan(record["loss"])


def test_reading_before_anything_is_written(tmp_path: Path):
  assert records.read_metrics(tmp_path) == []


def test_resumed_record_equals_an_undisturbed_one(tmp_path: Path):
  run(tmp_path / "whole", range(1, 11))
  run(tmp_path / "broken", range(1, 8))
  path = tmp_path / "broken" / "metrics.jsonl"
  with path.open("a") as file:
    file.write('{"step": 8, "ki')
  run(tmp_path / "broken", range(5, 11), resume_step=4)
  for name in ("metrics.jsonl", "metrics.csv"):
    whole = (tmp_path / "whole" / name).read_bytes()
    assert (tmp_path / "broken" / name).read_bytes() == whole


def test_half_a_last_line_is_left_out(tmp_path: Path, caplog):
  run(tmp_path, range(1, 3))
  path = tmp_path / "metrics.jsonl"
  whole = records.read_metrics(tmp_path)
  text = path.read_text()
  with path.open("a") as file:
    file.write('{"step": 3, "kind": "train", "lo')
  assert records.read_metrics(tmp_path) == whole
  assert caplog.messages == []
  records.Writer(tmp_path, tensorboard=False, resume_step=9).close()
  assert path.read_text() == text


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"step": "1"}', "\x00\xff"])
def test_damaged_lines_are_reported(tmp_path: Path, line: str, caplog):
  run(tmp_path, range(1, 3))
  whole = records.read_metrics(tmp_path)
  path = tmp_path / "metrics.jsonl"
  lines = path.read_text().splitlines()
  path.write_text("\n".join([lines[0], line, *lines[1:]]) + "\n")
  assert records.read_metrics(tmp_path) == whole
  assert "line 2 is damaged" in caplog.text


def test_without_resume_the_record_begins_anew(tmp_path: Path):
  run(tmp_path, range(1, 3))
  run(tmp_path, range(1, 2))
  assert [record["step"] for record in records.read_metrics(tmp_path)] == [1]


def events_of(workdir: Path) -> list[bytes]:
  """The newest events, each as it is encoded."""
  raw, found = max((workdir / "tensorboard").iterdir()).read_bytes(), []
  while raw:  # records of TFRecord: length, its checksum, data, its checksum
    (length,) = struct.unpack("<Q", raw[:8])
    found.append(raw[12 : 12 + length])
    raw = raw[16 + length :]
  return found


@pytest.mark.parametrize("resume_step, hidden_from", [(None, 0), (4, 5)])
def test_tensorboard_hides_what_is_done_again(
  tmp_path: Path, resume_step, hidden_from
):
  def hidden():
    events = map(event_pb2.Event.FromString, events_of(tmp_path))
    return [
      e.step
      for e in events
      if e.session_log.status == event_pb2.SessionLog.START
    ]

  run(tmp_path, range(1, 8))
  assert hidden() == []
  run(tmp_path, range((resume_step or 0) + 1, 9), resume_step=resume_step)
  assert hidden() == [hidden_from]


def test_tensorboard_events(tmp_path: Path):
  run(tmp_path, range(1, 3))
  names = b"".join(events_of(tmp_path))
  assert names.count(b"loss") == 2
  assert names.count(b"test/leader/accuracy") == 1


def test_a_save_finds_its_records_on_the_disk(tmp_path: Path, monkeypatch):
  """Checkpoints outlive a loss of power, so what came before must, too."""
  synced = []
  sync = os.fsync

  def fsync(descriptor):
    path = os.readlink(f"/proc/self/fd/{descriptor}")
    content = "" if os.path.isdir(path) else Path(path).read_text()
    synced.append((Path(path).name, content.count("\n")))
    sync(descriptor)

  monkeypatch.setattr(os, "fsync", fsync)
  with records.Writer(tmp_path, tensorboard=False) as writer:
    for step in range(1, 4):
      writer.write(step, {"loss": 2.0})
    writer.flush()
    assert synced[-1] == ("metrics.jsonl", 3)
  synced.clear()
  with records.Writer(tmp_path, tensorboard=False, resume_step=2):
    # Written anew, beside its place, before it replaces the old one.
    assert [count for _, count in synced] == [2, 0]


def test_a_save_finds_its_events_written(tmp_path: Path):
  writer = records.Writer(tmp_path)
  for step in range(1, 4):
    writer.write(step, {"loss": 2.0})
  writer.flush()  # after which a kill is as if nothing more were done
  events = [event_pb2.Event.FromString(e) for e in events_of(tmp_path)]
  assert [e.step for e in events if e.summary.value] == [1, 2, 3]
  writer.close()


def test_events_that_fail_before_a_save_are_left_out(
  tmp_path: Path, monkeypatch, caplog
):
  with records.Writer(tmp_path) as writer:
    writer.write(3, {"loss": 2.0})
    (events,) = writer._trackers

    def full():
      raise OSError("no space left")

    monkeypatch.setattr(events._file, "flush", full)
    writer.flush()
    writer.flush()
    monkeypatch.undo()
  events.close()
  (message,) = caplog.messages
  assert "Events failed at step 3" in message and "no space left" in message


def test_a_full_disk_closes_events_too(tmp_path: Path, monkeypatch):
  writer = records.Writer(tmp_path)
  writer.write(1, {"loss": 2.0})

  def full():
    raise CheckpointError("no space left")

  with monkeypatch.context() as patch, pytest.raises(CheckpointError):
    patch.setattr(writer._lines, "close", full)
    writer.close()
  writer._lines.close()
  (events,) = (tmp_path / "tensorboard").iterdir()
  assert b"loss" in events.read_bytes()


def test_events_that_cannot_be_written_hide_no_other_failure(
  tmp_path: Path, monkeypatch, caplog
):
  writer = records.Writer(tmp_path)

  def full():
    raise OSError("no space left")

  (events,) = writer._trackers
  monkeypatch.setattr(events._file, "close", full)
  with pytest.raises(CheckpointError, match="the reason"), writer:
    raise CheckpointError("the reason")
  monkeypatch.undo()
  events.close()
  assert "lacks the last events: no space left" in caplog.text


def test_missing_tensorboardx_is_one_warning(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
):
  monkeypatch.setitem(sys.modules, "tensorboardX", None)
  run(tmp_path, range(1, 5))
  (message,) = caplog.messages
  assert "pip install tensorboardX" in message
  assert len(records.read_metrics(tmp_path)) == 6


class Recorder:
  def __init__(self, fails_at: int | None = None):
    self.calls: list[tuple[int, dict[str, float]]] = []
    self.fails_at = fails_at

  def log(self, step: int, metrics: dict[str, float]) -> None:
    if step == self.fails_at:
      raise ConnectionError("no route to host")
    self.calls.append((step, metrics))


@pytest.mark.checklist("I1")
def test_i1_failing_tracker_is_left_out_after_one_warning(
  tmp_path: Path, caplog
):
  good, bad = Recorder(), Recorder(fails_at=2)
  with records.Writer(
    tmp_path, tensorboard=False, trackers=[bad, good]
  ) as writer:
    for step in range(1, 5):
      writer.write(step, TRAIN)
  assert [step for step, _ in good.calls] == [1, 2, 3, 4]
  assert good.calls[0][1] == {"loss": 2.5, "peer_ce": 1.25, "peer_kd": 0.5}
  assert [step for step, _ in bad.calls] == [1]
  (record,) = caplog.records
  assert record.levelno == logging.WARNING
  assert "Recorder failed at step 2" in record.getMessage()
  assert "no route to host" in record.getMessage()
  assert len(records.read_metrics(tmp_path)) == 4


# Twenty steps.
TWO_EPOCHS = Clock(batch_size=4, train_size=40, epochs=2)


def test_epochs_are_those_of_the_recipe_where_batches_do_not_fill_them(capsys):
  # 22.5 steps an epoch: counted by 23, these would be 98 epochs.
  clock = Clock(batch_size=64, train_size=1437, epochs=100)
  with Display(clock, "DML on digits", HEADLINE) as shown:
    for step in (23, 24, 2224, clock.total_steps):
      shown.update(step, TRAIN, 1000)
  said = capsys.readouterr().out
  for text in (
    "epoch 1/100  step 23/2246",
    "epoch 2/100  step 24/2246",
    "epoch 100/100  step 2246/2246",
  ):
    assert text in said


def test_plain_display(capsys, monkeypatch: pytest.MonkeyPatch):
  clock = iter([100.0, 101.0, 102.0, 103.0, 114.0, 119.0])
  monkeypatch.setattr("time.monotonic", lambda: next(clock))
  with Display(TWO_EPOCHS, "OKDDip on digits", HEADLINE) as shown:
    for step in (1, 2, 10, 11):
      shown.update(step, TRAIN, 1234.4)
    shown.evaluated(10, figures_of(EVALUATION | {"train/leader/accuracy": 1.0}))
    shown.note("[saved] checkpoint")
    shown.update(15, TRAIN, 1000)
    shown.update(20, TRAIN, 1000)
  assert capsys.readouterr().out.splitlines() == [
    "OKDDip on digits",
    "epoch 1/2  step 1/20  1,234 images/s  ETA -:--:--  "
    "loss 2.5  peer_ce 1.25  peer_kd 0.5",
    "epoch 2/2  step 11/20  1,234 images/s  ETA 0:00:03  "
    "loss 2.5  peer_ce 1.25  peer_kd 0.5",
    "test at step 10: leader 45.12 %  peer_0 44.00 %  peer_1 42.00 %  "
    "peers mean 43.00 %  ensemble 50.00 %  diversity 0.25",
    "train at step 10: leader 100.00 %",
    "[saved] checkpoint",
    "epoch 2/2  step 15/20  1,000 images/s  ETA 0:00:05  "
    "loss 2.5  peer_ce 1.25  peer_kd 0.5",
    "epoch 2/2  step 20/20  1,000 images/s  ETA 0:00:00  "
    "loss 2.5  peer_ce 1.25  peer_kd 0.5",
  ]


def test_one_network_is_not_shown_as_a_group_too(capsys):
  names = ("leader", "peer_0", "peers_mean", "ensemble")
  figures = {f"test/{who}/accuracy": 0.5 for who in names}
  with Display(TWO_EPOCHS, "one", HEADLINE) as shown:
    shown.evaluated(10, figures_of(figures | {"test/diversity": 0.0}))
  assert capsys.readouterr().out == "one\ntest at step 10: leader 50.00 %\n"


class Terminal(io.StringIO):
  def isatty(self) -> bool:
    return True


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
  screen = Terminal()
  monkeypatch.setattr(sys, "stdout", screen)
  monkeypatch.setenv("TERM", "xterm")
  monkeypatch.setenv("COLUMNS", "100")
  return screen


def test_live_display(monkeypatch: pytest.MonkeyPatch):
  terminal = open_terminal(monkeypatch)
  with Display(TWO_EPOCHS, "OKDDip on digits", HEADLINE) as shown:
    shown.update(1, TRAIN, 1234.4)
    shown.note("[saved] checkpoint")
    shown.evaluated(10, figures_of(EVALUATION))
    shown.update(11, TRAIN, 1000)
  shown = terminal.getvalue()
  for text in (
    "OKDDip on digits",
    "epoch 2/2  step 11/20  1,000 images/s  ETA 0:",
    "loss 2.5  peer_ce 1.25  peer_kd 0.5",
    "[saved] checkpoint",
    "leader 45.12 %",
    "55%",
  ):
    assert text in shown
  assert shown.count("[saved] checkpoint") == 1
  assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "cursor back"


def test_real_terminal_is_recognised(monkeypatch: pytest.MonkeyPatch):
  master, slave = pty.openpty()
  with open(master, "rb", buffering=0) as seen, open(slave, "w") as screen:
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    display.table("Networks", ["name"], [["resnet32"]])
    screen.flush()
    assert b"resnet32" in seen.read(4096)


def test_progress_is_shown_on_a_terminal_alone(monkeypatch, capsys):
  with display.progress("pictures", 200) as progress:
    progress(64)
  assert capsys.readouterr() == ("", "")
  out = open_terminal(monkeypatch)
  monkeypatch.setattr(sys, "stderr", Terminal())
  with display.progress("pictures", 200) as progress:
    progress(64)
    progress(64)
  assert "128/200" in sys.stderr.getvalue()
  assert out.getvalue() == ""


ROWS = [["leader", "45.12 %", 1234], ["peers [mean]", "9.00 %", "-"]]


def test_plain_table(capsys):
  display.table("Result", ["who", "accuracy", "n"], ROWS)
  assert capsys.readouterr().out == (
    "\nResult\n"
    "who           accuracy     n\n"
    "------------  --------  ----\n"
    "leader         45.12 %  1234\n"
    "peers [mean]    9.00 %     -\n"
    "\n"
  )
  display.table("Nothing", ["who"], [])
  assert capsys.readouterr().out == "\nNothing\nwho\n---\n\n"


def test_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
  terminal = open_terminal(monkeypatch)
  display.table("Result", ["who", "accuracy", "n"], ROWS)
  shown = terminal.getvalue()
  assert "peers [mean]" in shown and "45.12 %" in shown


def test_table_with_a_missing_cell_is_refused():
  with pytest.raises(ValueError, match="has 1 cells, the table has 2 columns"):
    display.table("Result", ["who", "accuracy"], [["leader"]])
