"""Runs of two processes, which share arrays and checkpoints."""

import io
import json
import os
from pathlib import Path
import subprocess
import sys

import bucket_server
import numpy as np
import ports
import pytest

from okd_jax import __main__
from okd_jax.data.keypoints import stickfolk
from okd_jax.storage import paths
from okd_jax.storage.checkpoint import Checkpoints
import toys

# A pair compiles every program twice, on whatever cores there are.
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
FIXTURE = Path(__file__).parents[1] / "fixtures" / "run"
MESHES = {"4x1": (4, 1), "2x2": (2, 2), "1x4": (1, 4)}
RECIPES = {"okdhp": "stickfolk"}
OPTIONS = {
  # Its maps would have to be as large as the fixture's.
  "ctkd": ("--config.method.attention_weight=0",),
  "kd": (f"--config.teacher={FIXTURE}",),
  "kdcl": ("--config.method.rule=general",),
}


def job(workdir, method, mesh, *flags, **more):
  data, peer = MESHES[mesh]
  return {
    "workdir": str(workdir),
    "flags": [
      f"--config=configs/{method}_{RECIPES.get(method, 'digits')}.py:smoke",
      "--config.peers.net=toys:Toy",
      "--config.peers.num_peers=4",
      f"--config.mesh.data={data}",
      f"--config.mesh.peer={peer}",
      "--config.epochs=2",
      "--config.log_steps=1",
      *OPTIONS.get(method, ()),
      *flags,
    ],
    **more,
  }


def start(jobs, num_devices, **environment):
  paths = (
    str(ROOT),
    str(ROOT / "tests/support"),
    os.environ.get("PYTHONPATH", ""),
  )
  return subprocess.Popen(
    [sys.executable, "tests/support/jobs.py", json.dumps(jobs)],
    cwd=ROOT,
    env={
      **os.environ,
      "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
      "PYTHONPATH": os.pathsep.join(paths),
      "XLA_FLAGS": os.environ["XLA_FLAGS"]
      + f" --xla_force_host_platform_device_count={num_devices}",
      **environment,
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(processes, timeout):
  """Waits, and returns exit codes and what was said on stderr."""
  try:
    said = [each.communicate(timeout=timeout)[1] for each in processes]
  finally:
    for each in processes:
      each.kill()
  return [each.returncode for each in processes], said


def begin(jobs, count=2, num_devices=2):
  """Starts the processes of one run."""
  address = f"localhost:{ports.free()}"
  return [
    start(
      jobs,
      num_devices,
      JAX_COORDINATOR_ADDRESS=address,
      JAX_NUM_PROCESSES=str(count),
      JAX_PROCESS_ID=str(i),
    )
    for i in range(count)
  ]


def pair(jobs, timeout=500):
  return finish(begin(jobs), timeout)


def in_pair(jobs, timeout=500):
  codes, said = pair(jobs, timeout)
  assert codes == [0, 0], said


def alone(jobs, timeout=500):
  codes, said = finish([start(jobs, 4)], timeout)
  assert codes == [0], said


def metrics(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def assert_equal_runs(ours, theirs):
  """Equal to the last bit."""
  assert metrics(ours) == metrics(theirs)
  with (
    np.load(ours / "state.npz") as a,
    np.load(theirs / "state.npz") as b,
  ):
    assert a.files == b.files
    for name in a.files:
      np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def assert_close_runs(ours, theirs):
  a_records, b_records = metrics(ours), metrics(theirs)
  assert len(a_records) == len(b_records) > 0
  for a, b in zip(a_records, b_records, strict=True):
    assert a.keys() == b.keys()
    for name in a.keys() - {"kind"}:
      # One example of the 360 may be on the edge of another class.
      atol = 0.003 if "accuracy" in name else 1e-4
      np.testing.assert_allclose(
        a[name], b[name], rtol=1e-3, atol=atol, err_msg=name
      )
  assert (ours / "leader" / "card.json").exists()


OFTEN = "--config.checkpoint_secs=1e-9"


@pytest.mark.checklist("A4", "B1")
def test_saves_under_way_do_not_meet_the_steps(tmp_path):
  """Every step runs while the one before it is saved, averages included."""
  two = "--config.peers.num_peers=2"
  in_pair(
    [
      job(tmp_path / "often", "pcl", "2x2", two, OFTEN, stop_at=7),
      job(tmp_path / "quiet", "pcl", "2x2", two),
    ]
  )
  assert_equal_runs(tmp_path / "often", tmp_path / "quiet")
  assert len(Checkpoints(tmp_path / "often" / "checkpoints").steps()) == 2


@pytest.mark.checklist("A4", "B1")
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("attempt", range(10))
def test_a_minute_of_saves(tmp_path, attempt):
  times = ("--config.checkpoint_secs=1", "--config.epochs=150")
  in_pair(
    [
      job(tmp_path / "often", "pcl", "2x2", *times, stop_at=100 + attempt),
      job(tmp_path / "quiet", "pcl", "2x2", "--config.epochs=150"),
    ],
    timeout=1800,
  )
  assert_equal_runs(tmp_path / "often", tmp_path / "quiet")


@pytest.mark.checklist("F1")
@pytest.mark.parametrize("broken", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_save_that_fails_in_one_process_ends_both(tmp_path, broken):
  codes, said = pair(
    [job(tmp_path, "okddip", "2x2", OFTEN, broken=(3, broken))]
  )
  assert codes == [5, 5], said
  for process, text in enumerate(said):
    assert "No space left on device" in text and "Traceback" not in text
    assert (f"In process {broken}: Saving" in text) == (process != broken)
  assert Checkpoints(tmp_path / "checkpoints").latest_verified() == 2


@pytest.mark.slow
def test_keypoints_on_two_processes(tmp_path):
  """Each of them reads its part of the pictures as it goes."""
  for seed, (split, count) in enumerate({"train": 20, "test": 6}.items()):
    stickfolk.write(tmp_path / "figures", split, "easy", count, seed)
  flags = (
    f"--config.data.name=keypoints:{tmp_path / 'figures'}",
    "--config.data.image_size=16",
    "--config.data.train_examples=0",
    "--config.peers.net=toys:hourglass",
    "--config.batch_size=8",
    "--config.eval_batch_size=4",
  )
  # In float32 Adam makes whole steps of what is rounding alone.
  alone([job(tmp_path / "one", "okdhp", "4x1", *flags, wide=True)])
  stream = "--config.data.source=stream"
  flags += (stream, OFTEN)
  in_pair([job(tmp_path / "two", "okdhp", "4x1", *flags, stop_at=3, wide=True)])
  assert_close_runs(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mesh", MESHES)
def test_every_method_on_two_processes(tmp_path, mesh):
  alone(
    [job(tmp_path / "one" / name, name, mesh) for name in toys.OF_CLASSES],
    timeout=1500,
  )
  jobs = [
    job(tmp_path / "two" / name, name, mesh, OFTEN, stop_at=6)
    for name in toys.OF_CLASSES
  ]
  trained = f"--config.init_from={tmp_path / 'two' / 'okddip'}"
  jobs.append(job(tmp_path / "two" / "renewed", "okddip", mesh, trained))
  in_pair(jobs, timeout=1500)
  for name in toys.OF_CLASSES:
    two = tmp_path / "two" / name
    assert_close_runs(two, tmp_path / "one" / name)
    __main__.main(["eval", str(two)])
    # Not beside "one", which is a method, too.
    to = tmp_path / "exported" / name
    __main__.main(["export", str(two), f"--to={to}"])
    assert (to / "card.json").exists()
  assert len(metrics(tmp_path / "two" / "renewed")) > 0


@pytest.mark.slow
def test_two_processes_share_a_bucket(tmp_path):
  flags = ("okddip", "2x2", "--config.checkpoint_secs=1")
  in_pair([job(tmp_path, *flags)])
  with bucket_server.serving("okd-pair"):
    in_pair([job("gs://okd-pair/run", *flags, stop_at=4)])
    there = paths.anywhere("gs://okd-pair/run") / "state.npz"
    found = np.load(io.BytesIO(there.read_bytes()))
  expected = np.load(tmp_path / "state.npz")
  for name in expected:
    np.testing.assert_array_equal(found[name], expected[name])
