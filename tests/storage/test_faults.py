"""Runs that are killed, stopped and starved go on as if nothing had been."""

import errno
import json
import os
from pathlib import Path
import random
import shutil
import signal
import subprocess
import sys
import time

import logged
import phases
import pytest

from okd_jax import train
from okd_jax.cli import common as cli
from okd_jax.errors import CheckpointError
from okd_jax.runs import records
from okd_jax.storage import files
from okd_jax.storage.checkpoint import Checkpoints
from okd_jax.weights import export
from scripts import soak

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
# Steps and saves take milliseconds; evaluation takes long enough to be hit.
RUN = (
  "--config=configs/okddip_digits.py:smoke",
  "--config.peers.net=toys:Toy",
  "--config.peers.num_peers=3",
  "--config.mesh.data=1",
  "--config.epochs=16",
  "--config.eval_epochs=4",
  "--config.eval_batch_size=2",
  "--config.checkpoint_secs=1e-9",
)
# One step is trained while the one before it is saved.
MOST_LOST = 2


@pytest.fixture(scope="module", autouse=True)
def importable(tmp_path_factory):
  """Lets child processes import the toy network and the script."""
  with pytest.MonkeyPatch.context() as patch:
    paths = (
      str(ROOT),
      str(ROOT / "tests" / "support"),
      os.environ.get("PYTHONPATH", ""),
    )
    patch.setenv("PYTHONPATH", os.pathsep.join(paths))
    patch.setenv("LINGERS", str(tmp_path_factory.mktemp("lingers") / "now"))
    patch.setenv("HOLDS", str(tmp_path_factory.mktemp("holds") / "now"))
    patch.chdir(ROOT)
    soak.PROCESSES.set_forkserver_preload(
      [soak.__name__, "undrawn", "lingering", "holding"]
    )
    yield


@pytest.fixture(scope="module")
def quiet(tmp_path_factory, importable):
  workdir = tmp_path_factory.mktemp("quiet")
  soak.finish(RUN, workdir)
  return workdir


def killed_often(quiet, workdir, run, *, kills, saving, longest):
  """Kills a run `kills` times, at least `saving` of them inside a save.

  Kills can come too late even so, so there may be half as many more.
  """
  lingers = Path(os.environ["LINGERS"])
  lingers.touch()
  rng = random.Random(0)
  inside, newest = 0, 0
  for i in range(kills + kills // 2 + 1):
    if i >= kills and inside >= saving:
      break
    # Every fourth kill comes at any moment, start-up included.
    saves = rng.randint(1, 9 if i < kills else 1) if i % 4 else 0
    met = soak.kill(run, workdir, rng, saves=saves, longest=longest)
    assert met is not None, "the run is too short for so many kills"
    assert met.saved >= newest, "a save was lost"
    assert met.logged - met.saved <= MOST_LOST
    inside, newest = inside + met.saving, met.saved
  lingers.unlink()
  assert inside >= saving and newest > 0
  soak.finish(run, workdir)
  soak.compare(quiet, workdir)


@pytest.mark.checklist("A2", "A3", "B1", "J4")
def test_three_kills_change_nothing(quiet, tmp_path):
  killed_often(quiet, tmp_path, RUN, kills=3, saving=1, longest=4)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.checklist("A2", "J4")
def test_fifty_kills_change_nothing(tmp_path):
  run = (*RUN, "--config.epochs=200", "--config.rampup_epochs=4")
  soak.finish(run, tmp_path / "quiet")
  killed_often(
    *(tmp_path / "quiet", tmp_path / "killed", run),
    kills=50,
    saving=15,
    longest=6,
  )


def steps_logged(workdir, kind):
  return [r["step"] for r in records.read_metrics(workdir) if r["kind"] == kind]


@pytest.mark.checklist("A1", "B1", "B3")
def test_stopped_in_every_phase_and_resumed_by_the_same_command(
  quiet, tmp_path
):
  workdir, holds = tmp_path / "run", Path(os.environ["HOLDS"])
  for phase, number in (
    ("compiling", signal.SIGTERM),
    ("training 3", signal.SIGINT),
    ("evaluating", signal.SIGTERM),
  ):
    log = tmp_path / phase
    phases.ask(holds, phase)
    process = soak.PROCESSES.Process(
      target=logged.run, args=(log, soak.run, RUN, workdir)
    )
    process.start()
    while process.is_alive() and not phases.met(holds).exists():
      time.sleep(0.01)
    os.kill(process.pid, number)
    while process.is_alive() and number.name not in log.read_text():
      time.sleep(0.01)
    holds.unlink()
    process.join(200)
    said = log.read_text()
    assert process.exitcode == 75, said
    assert number.name in said and "Traceback" not in said
    saved = Checkpoints(workdir / "checkpoints").latest_verified()
    if phase == "compiling":
      assert saved is None and "compiling: stopping now" in said
    else:
      assert saved == steps_logged(workdir, "train")[-1]
    if phase == "evaluating":
      assert saved in steps_logged(workdir, "eval")
  soak.finish(RUN, workdir)
  soak.compare(quiet, workdir)


def in_this_process(workdir, *flags):
  train.train(cli.read_recipe(["main.py", *RUN, *flags])[0], workdir)


@pytest.fixture
def finished(quiet, tmp_path):
  """A copy of the finished run, to be run again."""
  return Path(shutil.copytree(quiet, tmp_path / "run"))


@pytest.mark.checklist("A1")
def test_a_signal_during_the_export_loses_nothing(finished, monkeypatch):
  whole = export.export

  def interrupted(*args):
    os.kill(os.getpid(), signal.SIGTERM)
    whole(*args)

  shutil.rmtree(finished / "leader")
  monkeypatch.setattr(export, "export", interrupted)
  in_this_process(finished)
  assert (finished / "leader" / "card.json").exists()


@pytest.mark.checklist("A2", "A3")
@pytest.mark.parametrize("content", [b"", b'{"last"', b"[]"])
def test_what_a_kill_at_the_end_leaves_is_written_again(
  finished, quiet, content, monkeypatch
):
  (finished / "summary.json").write_bytes(content)
  (finished / "config.json.tmp").write_text("{")
  (finished / "leader").rename(finished / "leader.old")
  (finished / "leader.tmp").mkdir()
  if content:  # once is enough
    monkeypatch.setattr(train, "_export_and_plot", lambda run: None)
  in_this_process(finished)
  assert content or (finished / "leader" / "card.json").exists()
  ours, theirs = (
    json.loads((path / "summary.json").read_text())
    for path in (finished, quiet)
  )
  assert ours["last"] == theirs["last"] and ours["best"] == theirs["best"]


@pytest.mark.checklist("F1")
def test_a_full_disk_ends_with_one_message(finished, monkeypatch, capsys):
  write = files.write

  def full(path, content, **options):
    if path.name != "summary.json":
      return write(path, content, **options)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

  monkeypatch.setattr(files, "write", full)
  with pytest.raises(SystemExit) as left, cli.exit_codes():
    in_this_process(finished)
  assert left.value.code == CheckpointError.exit_code
  said = capsys.readouterr().err
  assert "No space left on device" in said and "the last checkpoint" in said
  assert Checkpoints(finished / "checkpoints").latest_verified() == 80


@pytest.mark.parametrize(
  "number",
  [
    *(errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST),
    *(errno.ENAMETOOLONG, errno.EBUSY, errno.EXDEV),
  ],
)
def test_places_that_cannot_be_written_end_with_a_message(number, capsys):
  with pytest.raises(SystemExit) as left, cli.exit_codes():
    raise OSError(number, os.strerror(number))
  assert left.value.code == CheckpointError.exit_code
  assert os.strerror(number) in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOENT])
def test_other_failures_of_the_system_keep_their_traceback(number):
  with pytest.raises(OSError), cli.exit_codes():
    raise OSError(number, os.strerror(number))


@pytest.mark.checklist("G1")
@pytest.mark.parametrize(
  "content", [pytest.param(None, marks=pytest.mark.slow), b"damaged"]
)
def test_an_unusable_compilation_cache_stops_no_run(
  quiet, tmp_path, content, monkeypatch
):
  cache = tmp_path / "cache"
  if content is None:
    cache.write_text("a file")
  else:
    used = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    cache.mkdir()
    bad = tmp_path / "bad"
    bad.write_bytes(content)
    for entry in used.iterdir():
      (cache / entry.name).symlink_to(bad)
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache))
  done = subprocess.run(
    [
      *(
        sys.executable,
        "main.py",
        "--config=configs/independent_digits.py:smoke",
      ),
      *("--config.peers.net=toys:Toy", "--config.peers.num_peers=1"),
      *("--config.epochs=1", "--config.mesh.data=1"),
      f"--workdir={tmp_path / 'run'}",
    ],
    capture_output=True,
    text=True,
    timeout=200,
  )
  assert done.returncode == 0, done.stderr
