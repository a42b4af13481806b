"""Comparisons on a cluster: what is submitted, and what its tasks do."""

import os
from pathlib import Path
import shlex
import signal
import sys
import time

import pytest
import submitit

import cells
from okd_jax import __main__, slurm, workers

ROOT = Path(__file__).resolve().parents[2]


def command(*args):
  with pytest.raises(SystemExit) as left:
    __main__.main(["compare", *args])
    sys.exit(0)
  return left.value.code


def dry(workdir, *others):
  flags = cells.flags(workdir, "--submit=slurm", "--workers=3", *others)
  return command(*flags, "--dry-run")


def test_an_array_is_shown_and_not_submitted(tmp_path, capsys):
  workdir = tmp_path / "compared"
  options = ("--slurm.partition=gpu", "--slurm.gpus_per_task=1")
  assert dry(workdir, "--only=resnet8/*/seed1", *options) == 0
  out = capsys.readouterr().out
  lines = out.splitlines()
  assert lines[0] == "#!/bin/bash"
  for line in (
    "--array=0-3%3",
    "--partition=gpu",
    "--gpus-per-task=1",
    "--requeue",
    "--signal=USR2@120",
    "--time=240",
    "--nodes=1",
    "--ntasks-per-node=1",
    "--open-mode=append",
    f"--output={workdir}/slurm/%A_%a_0_log.out",
  ):
    assert f"#SBATCH {line}" in lines, out
  (start,) = (line for line in lines if line.startswith("srun"))
  assert start.endswith(f"-m submitit.core._submit {workdir}/slurm")
  words = shlex.split(lines[-2].removeprefix("# "))
  assert words[:4] == [*workers.PROGRAM]
  assert "--only=resnet8/*/seed1" in words and "--skip-failed" in words
  assert not any(word.startswith("--slurm") for word in words)
  places = [word for word in words if word.startswith("--workdir")]
  assert places == [f"--workdir={workdir}"]
  assert not workdir.exists()


def test_what_is_finished_needs_no_task(tmp_path, capsys):
  listed = cells.listed(tmp_path)
  for cell in listed[:7]:
    cells.pretend(cell.config, cell.workdir)
  assert dry(tmp_path) == 0
  out = capsys.readouterr().out
  assert "--array=0-0%1" in out
  cells.pretend(listed[7].config, listed[7].workdir)
  assert dry(tmp_path) == 0
  assert "Nothing is left to train" in capsys.readouterr().out


def test_an_array_is_submitted(tmp_path, monkeypatch, capsys):
  """By an sbatch that only says what it was given."""
  for name, text in (("srun", ""), ("sbatch", f"cp $1 {tmp_path}/given; ")):
    (tmp_path / name).write_text(f"#!/bin/bash\n{text}echo job 7\n")
    (tmp_path / name).chmod(0o755)
  monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
  workdir = tmp_path / "compared"
  flags = ("--submit=slurm", "--workers=3", "--slurm.account=me")
  assert command(*cells.flags(workdir, *flags)) == 0
  assert "Submitted 8 tasks as array 7" in capsys.readouterr().out
  given = (tmp_path / "given").read_text()
  assert "--array=0-7%3" in given and "--account=me" in given
  pickles = sorted((workdir / "slurm").glob("7_*_submitted.pkl"))
  assert len(pickles) == 8
  task = submitit.core.utils.DelayedSubmission.load(pickles[0]).function
  assert f"--workdir={workdir}" in task._command
  # The text that --dry-run shows is that of the file.
  command(*cells.flags(workdir, *flags), "--dry-run")
  assert given in capsys.readouterr().out


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--submit=slurm"], "--workers=None must be the number of tasks"),
    (["--submit=slurm", "--workers=auto"], "--workers=auto must be the number"),
    (["--submit=slurm", "--workers=2"], "there is no srun here"),
    (["--slurm.time=5"], "are for --submit=slurm"),
    (
      ["--submit=slurm", "--workers=2", "--dry-run", "--slurm.time=1:00"],
      "--slurm.time=1:00 must be minutes",
    ),
    (
      ["--submit=slurm", "--workers=2", "--dry-run", "--slurm.array=1"],
      "by --workers",
    ),
  ],
)
def test_mistakes_are_refused(tmp_path, flags, message, capsys, monkeypatch):
  monkeypatch.setenv("PATH", str(tmp_path))
  assert command(*cells.flags(tmp_path / "compared", *flags)) == 2
  assert message in capsys.readouterr().err


def test_a_missing_package_is_named(tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "submitit", None)
  monkeypatch.delitem(sys.modules, "okd_jax.slurm")
  monkeypatch.delattr("okd_jax.slurm")
  assert dry(tmp_path / "compared") == 2
  assert "pip install submitit adds it" in capsys.readouterr().err


@pytest.fixture
def local(tmp_path, monkeypatch):
  """Submits a task that runs here, and says where its output will be."""
  paths = [ROOT, ROOT / "tests" / "support", *sys.path]
  monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))
  executor = submitit.LocalExecutor(tmp_path / "slurm")
  executor.update_parameters(timeout_min=5, stderr_to_stdout=True)
  jobs = []

  def submit(command):
    job = executor.submit(slurm.Task(command))
    jobs.append(job)
    return job, tmp_path / "slurm" / f"{job.job_id}_0_log.out"

  yield submit
  for job in jobs:
    job._process.kill()
    job._process.wait()


@pytest.mark.long
def test_a_task_is_a_worker(tmp_path, monkeypatch, local):
  workdir = tmp_path / "compared"
  monkeypatch.setenv("CELLS_LOG", os.devnull)
  monkeypatch.setenv("CELLS_SECONDS", "0")
  job, out = local([*cells.PROGRAM, *cells.flags(workdir)])
  job._process.wait(timeout=250)
  assert job.exception() is None, out.read_text()
  assert (workdir / "table.md").read_text().count("| 2 of 2 |") == 4


# Stops by itself or when it is told to; ends when it was there before.
STOPPED = """
import pathlib, signal, sys, time
def stop(number, frame):
  print("saved", flush=True)
  sys.exit(75)
signal.signal(signal.SIGTERM, stop)
who = pathlib.Path(sys.argv[1])
if who.exists():
  print("goes on", flush=True)
  sys.exit(0)
who.touch()
print("ready", flush=True)
if who.name == "told":
  time.sleep(600)
sys.exit(75)
"""


@pytest.mark.long
def test_a_task_that_stops_is_queued_again(tmp_path, local):
  """By the signal before the end, or by itself with the code for that."""
  start = [sys.executable, "-c", STOPPED]
  told, said = local([*start, str(tmp_path / "told")])
  alone, of_alone = local([*start, str(tmp_path / "alone")])
  failed, _ = local([sys.executable, "-c", "exit(1)"])
  until = time.monotonic() + 200
  while not (said.exists() and "ready" in said.read_text()):
    assert time.monotonic() < until
    time.sleep(0.05)
  (task,) = children(told._process.pid)
  os.kill(task, signal.SIGUSR2)
  for job in (told, alone, failed):
    job._process.wait(timeout=200)
  for text, saved in ((said.read_text(), True), (of_alone.read_text(), False)):
    assert text.index("Requeued job") < text.index("goes on")
    assert ("saved" in text) == saved
  assert alone.exception() is None and told.exception() is None
  assert failed.exception() is not None


def children(process):
  text = Path(f"/proc/{process}/task/{process}/children").read_text()
  return [int(word) for word in text.split()]
