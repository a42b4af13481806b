"""Work directories in a bucket, of a real server on this machine."""

import contextlib
import logging
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import threading
import time

import bucket_server
import jax
import numpy as np
import phases
import pytest

import cells
from okd_jax import __main__, compare, train
from okd_jax.cli import common as cli
from okd_jax.errors import CheckpointError, ConfigError, RunLockError
from okd_jax.results import grid
from okd_jax.runs import records, run as run_lib
from okd_jax.storage import (
  bucket,
  files,
  growing,
  lease as lease_lib,
  manifest,
  owner,
  paths,
)
from okd_jax.storage.checkpoint import Checkpoints
from okd_jax.storage.lease import Lease
from okd_jax.weights import exported

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
FLAGS = (
  "--config=configs/okddip_digits.py:smoke",
  "--config.peers.net=toys:Toy",
  "--config.peers.num_peers=3",
  "--config.mesh.data=1",
  "--config.epochs=4",
  "--config.checkpoint_secs=1e-9",
)


class Place(str):
  """The address, and the way there."""

  def __new__(cls, address, way):
    made = super().__new__(cls, address)
    made.way = way
    return made


@pytest.fixture(scope="module")
def place():
  """The address of an empty bucket, which child processes reach, too."""
  with pytest.MonkeyPatch.context() as patch:
    search = (str(ROOT), str(ROOT / "tests" / "support"))
    patch.setenv("PYTHONPATH", os.pathsep.join(search))
    patch.chdir(ROOT)
    with bucket_server.serving("okd-tests") as way:
      yield Place("gs://okd-tests", way)


def config(workdir):
  return cli.read_recipe(["main.py", *FLAGS, f"--workdir={workdir}"])


@pytest.fixture(scope="module")
def on_disk(place, tmp_path_factory):
  made = config(tmp_path_factory.mktemp("disk") / "run")
  state, _ = train.train(*made)
  return made[1], jax.device_get(state)


@pytest.fixture(scope="module")
def in_bucket(place, on_disk):
  made = config(f"{place}/runs/one")
  state, _ = train.train(*made)
  return made[1], jax.device_get(state)


def ended_process():
  with subprocess.Popen([sys.executable, "-c", ""]) as process:
    pass
  return process.pid


def command(*args):
  with cli.exit_codes():
    __main__.main([str(arg) for arg in args])


def test_a_run_is_that_of_a_disk(on_disk, in_bucket):
  jax.tree.map(np.testing.assert_array_equal, in_bucket[1], on_disk[1])
  folder, workdir = on_disk[0], in_bucket[0]
  assert records.read_metrics(workdir) == records.read_metrics(folder)
  jax.tree.map(
    np.testing.assert_array_equal,
    jax.device_get(run_lib.run(workdir).state),
    on_disk[1],
  )
  # Numbers of checkpoints apart, and TensorBoard's names, which hold times.
  here, there = (
    {
      name
      for name in files.names_below(each)
      if not name.startswith(("checkpoints/", "tensorboard/", "run.lock"))
    }
    for each in (folder, workdir)
  )
  assert there == here
  events = [p.name for p in (workdir / "tensorboard").iterdir()]
  assert len(events) == 1 and "tfevents" in events[0]


def test_commands_take_it(in_bucket, place, capsys):
  workdir = in_bucket[0]
  command("eval", workdir)
  assert "leader" in capsys.readouterr().out
  command("plot", workdir, f"--to={place}/plots")
  assert (paths.anywhere(f"{place}/plots") / "accuracy.png").exists()
  command("report", workdir, f"--to={place}/page.html")
  assert "okddip" in paths.anywhere(f"{place}/page.html").read_text()
  for _ in range(2):  # the second replaces the first
    command("export", workdir, f"--to={place}/net")
  apply, variables = exported.load_leader(f"{place}/net")
  assert apply(variables, np.zeros((2, 8, 8, 1), np.float32)).shape == (2, 10)


def test_a_comparison_is_shared_there(place, monkeypatch):
  """One cell is held by a worker that lives, one by one that has died."""
  workdir = paths.anywhere(f"{place}/compared")
  config = cells.small(methods=("independent", "kd"))
  listed = grid.cells(config, workdir)
  monkeypatch.setattr(train, "train", cells.train)
  monkeypatch.setenv("CELLS_LOG", os.devnull)
  monkeypatch.setenv("CELLS_SECONDS", "0")
  lease = bucket.Object(listed[1].workdir / "run.lease.json")
  died = owner.content(processes=lease_lib._space(), pid=ended_process())
  lease.replace(died.encode(), 0)

  def end():
    time.sleep(1)
    cells.pretend(listed[0].config, listed[0].workdir)
    held.close()

  with contextlib.ExitStack() as held:
    held.enter_context(Lease(listed[0].workdir))
    threading.Thread(target=end).start()
    assert compare.compare(config, workdir) == {}
  assert (workdir / "table.md").read_text().count("| 2 of 2 |") == 4
  assert (workdir / "plots" / "accuracy_resnet8.png").exists()
  assert not (workdir / "run.lease.json").exists()


@pytest.mark.slow  # it compiles another step
def test_it_begins_from_a_run_in_a_bucket(in_bucket, tmp_path):
  made, workdir = cli.read_recipe(
    [
      "main.py",
      *FLAGS,
      "--config.epochs=1",
      f"--config.init_from={in_bucket[0]}",
      f"--workdir={tmp_path / 'tuned'}",
    ]
  )
  train.train(made, workdir)


@pytest.mark.checklist("A2", "A3")
@pytest.mark.parametrize("kills", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on(place, on_disk, kills, tmp_path, monkeypatch):
  rng, holds = random.Random(0), tmp_path / "holds"
  monkeypatch.setenv("HOLDS", str(holds))
  workdir = paths.anywhere(f"{place}/runs/killed{kills}")
  program = "import main, holding; main.main()"
  start = [sys.executable, "-c", program, *FLAGS, f"--workdir={workdir}"]
  checkpoints = Checkpoints(workdir / "checkpoints")
  for _ in range(kills):
    before = checkpoints.latest_verified() or 0
    # A kill that comes late meets it there, and not after its end.
    phases.ask(holds, f"training {before + 2}")
    first = subprocess.Popen(start, stdout=subprocess.DEVNULL)
    while max(checkpoints.steps(), default=0) <= before:
      assert first.poll() is None
      time.sleep(0.05)
    time.sleep(rng.uniform(0, 0.2) if before else 0)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert before < checkpoints.latest_verified() < 20
  # Its lease is left, and its process known to be gone.
  state, _ = train.train(*config(workdir))
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), on_disk[1])
  found = records.read_metrics(workdir)
  assert found == records.read_metrics(on_disk[0])


@pytest.mark.checklist("C1", "C2", "F2")
@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "manifest"])
def test_damage_is_noticed(place, harm):
  checkpoints = Checkpoints(paths.anywhere(f"{place}/damaged/{harm}"), keep=2)
  state = {"a": jax.numpy.arange(1000.0), "b": jax.numpy.ones(3)}
  for step in (1, 2, 3):
    checkpoints.save(step, state, wait=True)
  assert checkpoints.steps() == [2, 3]
  folder = checkpoints.directory / "3"
  sizes = {
    name: len((folder / name).read_bytes())
    for name in files.names_below(folder)
  }
  path = folder / max(sizes, key=sizes.__getitem__)
  if harm == "manifest":
    path = checkpoints.directory / "3.manifest.json"
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 4
  if harm == "remove":
    path.unlink()
  else:
    path.write_bytes(bytes(content[:-1] if harm == "cut" else content))
  assert checkpoints.latest_verified() == 2
  _, step, _ = checkpoints.restore(state)
  assert step == 2


@pytest.mark.checklist("A3")
def test_what_a_dead_save_leaves_is_not_used(place):
  checkpoints = Checkpoints(paths.anywhere(f"{place}/dead"), keep=2)
  state = {"a": jax.numpy.ones(3)}
  for step in (1, 2):
    checkpoints.save(step, state, wait=True)
  (checkpoints.directory / "2.manifest.json").unlink()
  assert checkpoints.latest_verified() == 1
  again = Checkpoints(checkpoints.directory, keep=2)
  again.save(2, {"a": jax.numpy.zeros(3)}, wait=True)
  restored, step, _ = again.restore(state)
  assert step == 2 and not restored["a"].any()


@pytest.mark.slow
@pytest.mark.checklist("C1")
def test_a_hundred_flipped_bits_are_found(place):
  checkpoints = Checkpoints(paths.anywhere(f"{place}/flipped"), keep=2)
  rng = random.Random(0)
  for step in (1, 2):
    checkpoints.save(step, {"a": jax.numpy.arange(1000.0)}, wait=True)
  folder = checkpoints.directory / "2"
  names = [f"2/{name}" for name in files.names_below(folder)]
  for _ in range(100):
    path = checkpoints.directory / rng.choice([*names, "2.manifest.json"])
    whole = path.read_bytes()
    if not whole:
      continue
    content = bytearray(whole)
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(content))
    assert checkpoints.latest_verified() == 1, path
    path.write_bytes(whole)
  assert checkpoints.latest_verified() == 2


def test_what_cannot_be_reached_is_not_deleted(tmp_path, monkeypatch, caplog):
  checkpoints = Checkpoints(tmp_path, keep=1)
  state = {"a": jax.numpy.ones(3)}
  checkpoints.save(1, state, wait=True)
  whole = manifest._fingerprint

  def unreachable(path):
    if path.parent.name == "1":
      raise ConnectionError("nobody answers")
    return whole(path)

  monkeypatch.setattr(manifest, "_fingerprint", unreachable)
  checkpoints.save(2, state, wait=True)
  assert checkpoints.steps() == [1, 2]
  assert "step 1 is kept: " in caplog.text
  monkeypatch.undo()
  checkpoints.save(3, state, wait=True)
  assert checkpoints.steps() == [3]


def lease(place, **changes):
  times = {"renewed_secs": 0.1, "dead_secs": 0.6} | changes
  return Lease(paths.anywhere(f"{place}/leases"), **times)


@pytest.mark.checklist("I2")
def test_one_run_at_a_time(place):
  with lease(place):
    # Refused when the other one renews, however long it takes to do so.
    with pytest.raises(RunLockError, match=f"process id {os.getpid()}"):
      lease(place, dead_secs=200.0).acquire()
  with lease(place) as again:
    again.check()


def test_a_dead_owner_elsewhere_is_waited_for(place, caplog):
  left = bucket.Object(paths.anywhere(f"{place}/leases/run.lease.json"))
  left.replace(b'{"host": "elsewhere", "pid": 1}\n', 0)
  began = time.monotonic()
  with lease(place):
    assert time.monotonic() - began >= 0.6
  assert "in use (host elsewhere, process id 1); waiting" in caplog.text


def test_a_run_that_was_taken_over_notices(place):
  slow, turn = lease(place), threading.Event()
  renewed = slow._renew_once

  def late():
    turn.wait(200)
    renewed()

  slow._renew_once = late
  with slow, lease(place):
    turn.set()
    assert slow._lost.wait(200)
    with pytest.raises(RunLockError, match="was taken over by another run"):
      slow.check()


def test_a_bucket_that_is_not_there_is_refused(place):
  workdir = paths.anywhere("gs://okd-others/run")
  with pytest.raises(RunLockError, match="(?s)okd-others.*Check the bucket"):
    Lease(workdir).acquire()


def test_a_busy_server_is_asked_again(place):
  checkpoints = Checkpoints(paths.anywhere(f"{place}/busy/checkpoints"))
  state = {"a": jax.numpy.arange(10.0)}
  checkpoints.save(1, state, wait=True)
  log = growing.text(paths.anywhere(f"{place}/busy/log"), "")
  log.add("line\n")
  with bucket_server.cut(place.way, 0.7):
    checkpoints.save(2, state, wait=True)
    log.close()
  assert checkpoints.latest_verified() == 2
  assert paths.anywhere(f"{place}/busy/log").read_text() == "line\n"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["busy", "gone"])
def test_ten_seconds_without_the_server_change_nothing(place, on_disk, how):
  workdir = paths.anywhere(f"{place}/runs/{how}")
  start = [sys.executable, "main.py", *FLAGS, f"--workdir={workdir}"]
  with subprocess.Popen(start, stdout=subprocess.DEVNULL) as running:
    while not Checkpoints(workdir / "checkpoints").steps():
      assert running.poll() is None
      time.sleep(0.05)
    with bucket_server.cut(place.way, 10, how):
      pass
    assert running.wait(300) == 0
  assert records.read_metrics(workdir) == records.read_metrics(on_disk[0])
  steps = Checkpoints(workdir / "checkpoints"), on_disk[0] / "checkpoints"
  assert steps[0].latest_verified() == Checkpoints(steps[1]).latest_verified()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.checklist("F1")
def test_a_server_that_stays_away_ends_the_run(place):
  workdir = paths.anywhere(f"{place}/runs/left")
  more = ("--config.epochs=100000", "--config.checkpoint_secs=1")
  start = [sys.executable, "main.py", *FLAGS, *more, f"--workdir={workdir}"]
  checkpoints = Checkpoints(workdir / "checkpoints")
  with subprocess.Popen(start, stderr=subprocess.PIPE, text=True) as running:
    while not checkpoints.steps():
      assert running.poll() is None
      time.sleep(0.05)
    before = checkpoints.latest_verified()
    place.way.gone = True
    began = time.monotonic()
    try:
      _, said = running.communicate(timeout=1500)
    finally:
      running.kill()
      place.way.gone = False
  print(f"ended after {time.monotonic() - began:.0f} s")
  assert running.returncode == 5, said
  assert "okd_jax: " in said and "Traceback" not in said
  assert checkpoints.latest_verified() >= before


def test_events_that_cannot_be_written_are_one_warning(
  place, monkeypatch, caplog
):
  """At the end, when all else is saved."""
  whole = files.write

  def write(path, content, **options):
    if path.parent.name == "tensorboard":
      raise ConnectionError("nobody answers")
    whole(path, content, **options)

  monkeypatch.setattr(files, "write", write)
  workdir = paths.anywhere(f"{place}/events")
  with records.Writer(workdir) as writer:
    writer.write(1, {"loss": 2.0})
  assert "lacks the last events" in caplog.text
  assert records.read_metrics(workdir) == [
    {"step": 1, "kind": "train", "loss": 2.0}
  ]


def test_uploads_are_tried_again(caplog):
  calls = []

  def write():
    calls.append(len(calls))
    if len(calls) < 3:
      raise ConnectionError("nobody answers")

  uploads = growing.Uploads(write, every_secs=0.0)
  while len(calls) < 3:
    uploads.changed()
    time.sleep(0.01)
  uploads.finish()
  assert len(calls) == 4
  assert "could not be written: nobody answers; again later" in caplog.text


def test_what_is_there_at_a_checkpoint_is_written_though_a_write_runs():
  begun, go_on = threading.Event(), threading.Event()
  lines, written = ["train"], []

  def write():
    found = list(lines)
    begun.set()
    assert go_on.wait(60)
    written.append(found)

  uploads = growing.Uploads(write)
  uploads.now()
  assert begun.wait(60)
  lines.append("eval")
  uploads.now()
  uploads.now()  # what waits is enough
  go_on.set()
  uploads.finish()  # writes once more
  assert written == [["train"], *2 * [["train", "eval"]]]


def test_a_last_upload_that_fails_is_an_error():
  def write():
    raise ConnectionError("nobody answers")

  uploads = growing.Uploads(write)
  with pytest.raises(CheckpointError, match="nobody answers"):
    uploads.finish()


@pytest.mark.parametrize(
  ("written", "message"),
  [
    ("s3://bucket/run", "in Google Cloud Storage"),
    ("gs://", "gs://BUCKET/PATH"),
    ("gs://bucket/lr=[0.1]", "letters, digits"),
    ("gs://bucket/$NOT_SET_ANYWHERE", "which is not set"),
  ],
)
def test_other_addresses_are_refused(written, message):
  with pytest.raises(ConfigError, match=message):
    paths.anywhere(written)


def test_what_has_to_be_here_is_refused():
  with pytest.raises(ConfigError, match="not read from buckets. Copy it here"):
    paths.expand("gs://bucket/net.pth")


def test_missing_packages_are_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "gcsfs", None)
  with pytest.raises(ConfigError, match="pip install gcsfs"):
    paths.anywhere("gs://bucket/run")


def test_messages_of_the_client_are_ours(place):
  paths.anywhere(place)
  assert logging.getLogger("gcsfs").level == logging.CRITICAL
