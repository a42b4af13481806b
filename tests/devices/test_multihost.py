"""A run of two processes with two devices each is a run with four devices."""

import json
import os
from pathlib import Path
import subprocess
import sys

import folder_recipe
import numpy as np
import ports
import pytest
import several

from okd_jax.devices import distributed
from okd_jax.errors import ConfigError, DataError

ROOT = Path(__file__).parents[2]
FOREIGN = (
  "--config=configs/okddip_digits.py:smoke",
  "--config.peers.net=examples.own_network:Large",
  "--config.peers.num_peers=2",
)
# Held-out logits, and peers whose evaluation spans the processes.
GENERAL = (
  "--config=configs/kdcl_digits.py:smoke",
  "--config.method.rule=general",
  "--config.peers.net=toys:Toy",
  "--config.peers.num_peers=4",
  "--config.mesh.data=1",
  "--config.mesh.peer=4",
)
UNDRAWN = (sys.executable, "-c", "import apart, main, undrawn; main.main()")
ALWAYS = ("--config.epochs=1", "--config.log_steps=1")


def start(workdir, num_devices, *settings, **environment):
  """Starts main.py with virtual devices; nobody looks at the curves."""
  environment = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    "PYTHONPATH": str(ROOT / "tests" / "support"),
    "XLA_FLAGS": os.environ["XLA_FLAGS"]
    + f" --xla_force_host_platform_device_count={num_devices}",
    **environment,
  }
  return subprocess.Popen(
    [*UNDRAWN, *settings, *ALWAYS, f"--workdir={workdir}"],
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(*processes):
  """Waits, and returns what they printed."""
  said = [process.communicate(timeout=280) for process in processes]
  for process, (_, errors) in zip(processes, said, strict=True):
    assert process.returncode == 0, errors
  return [out for out, _ in said]


def metrics(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.mark.long
@pytest.mark.parametrize(
  "settings",
  [
    GENERAL,
    pytest.param((*FOREIGN, "--config.mesh.peer=1"), marks=pytest.mark.slow),
    pytest.param((*FOREIGN, "--config.mesh.peer=2"), marks=pytest.mark.slow),
  ],
  ids=["general", "1", "2"],
)
def test_two_processes_train_as_one(tmp_path, settings):
  finish(start(tmp_path / "one", 4, *settings))
  address = f"localhost:{ports.free()}"
  first, second = finish(
    *(
      start(
        tmp_path / "two",
        2,
        *settings,
        JAX_COORDINATOR_ADDRESS=address,
        JAX_NUM_PROCESSES="2",
        JAX_PROCESS_ID=str(i),
      )
      for i in range(2)
    )
  )
  assert "deployed" in first
  assert second == ""
  one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
  assert [(r["step"], r["kind"]) for r in one] == [
    (r["step"], r["kind"]) for r in two
  ]
  for a, b in zip(one, two, strict=True):
    assert a.keys() == b.keys()
    for name in a.keys() - {"kind"}:
      np.testing.assert_allclose(a[name], b[name], rtol=1e-4, err_msg=name)
  cards = [
    json.loads((tmp_path / run / "leader" / "card.json").read_text())
    for run in ("one", "two")
  ]
  assert cards[0]["accuracy"] == cards[1]["accuracy"]


def test_environments_are_recognised():
  detect = distributed.detect
  assert detect({}, on_tpu=False) is None
  assert detect({}, on_tpu=True) == {}
  assert detect({"SLURM_STEP_NUM_TASKS": "1"}, on_tpu=False) is None
  assert detect({"SLURM_STEP_NUM_TASKS": "8"}, on_tpu=False) == {}
  own = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
  }
  assert detect(own, on_tpu=False) == {
    "coordinator_address": "10.0.0.1:1234",
    "num_processes": 2,
    "process_id": 1,
  }


@pytest.mark.parametrize("missing", ["JAX_NUM_PROCESSES", "JAX_PROCESS_ID"])
def test_incomplete_environments_are_refused(missing):
  own = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
  }
  del own[missing]
  with pytest.raises(ConfigError, match=f"{missing}='' must be"):
    distributed.detect(own, on_tpu=False)


@pytest.mark.parametrize(
  ("environ", "said"),
  [
    ({"JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID=2 must be below .*0 to 1"),
    ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1"}, "must be HOST:PORT"),
    ({"JAX_COORDINATOR_ADDRESS": ":1234"}, "must be HOST:PORT"),
    ({"JAX_COORDINATOR_ADDRESS": "host:port"}, "must be HOST:PORT"),
  ],
)
def test_wrong_environments_are_refused(environ, said):
  right = {
    "JAX_COORDINATOR_ADDRESS": "[::1]:1234",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
  }
  assert distributed.detect(right, on_tpu=False)
  with pytest.raises(ConfigError, match=said):
    distributed.detect(right | environ, on_tpu=False)


def test_processes_without_a_coordinator_are_refused():
  own = {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}
  with pytest.raises(ConfigError, match="needs JAX_COORDINATOR_ADDRESS"):
    distributed.detect(own, on_tpu=False)
  assert distributed.detect(own, on_tpu=True) == {}


@pytest.mark.parametrize("process", ["0", "1"])
def test_a_process_without_the_others_says_so_and_ends(process):
  program = (
    "from okd_jax.devices import distributed as d\n"
    "d._TELL_SECONDS, d._GIVE_UP_SECONDS = 0.5, 2.0\n"
    "d.initialize()\n"
  )
  alone = subprocess.run(
    [sys.executable, "-c", program],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
    env=os.environ
    | {
      "JAX_COORDINATOR_ADDRESS": f"localhost:{ports.free()}",
      "JAX_NUM_PROCESSES": "2",
      "JAX_PROCESS_ID": process,
    },
  )
  assert alone.returncode == 75, alone.stderr
  waits, ended = alone.stderr.strip().splitlines()[-2:]
  assert f"process {process} of 2 at localhost:" in waits
  assert "waits for the other processes" in waits
  assert "did not find the others within 2 s" in ended


def test_processes_with_different_settings_are_refused(tmp_path):
  main = ("main.py", *FOREIGN, f"--workdir={tmp_path / 'run'}")
  commands = [
    [*main, f"--config.optim.learning_rate={rate}"] for rate in (0.05, 0.2)
  ]
  for process in several.begin(*commands):
    _, errors = process.communicate(timeout=200)
    assert process.returncode == ConfigError.exit_code, errors
    assert "learning_rate is 0.2 and not 0.05 as in process 0" in errors


def test_processes_with_different_data_are_refused(tmp_path):
  for place, count in (("a", 6), ("b", 7)):
    folder_recipe.add_pictures(tmp_path / place, range(count))
  commands = [
    [
      *("main.py", *FOREIGN, "--config.data.train_examples=0"),
      *("--config.batch_size=4", "--config.eval_batch_size=4"),
      *(f"--workdir={tmp_path}/run", f"--config.data.name=folder:{tmp_path}/a"),
      f"--config.data.dir={tmp_path}/{place}",
    ]
    for place in ("a", "b")
  ]
  for process in several.begin(*commands):
    _, errors = process.communicate(timeout=200)
    assert process.returncode == DataError.exit_code, errors
    assert "num_train is 11 and not 10 as in process 0" in errors


def test_a_work_directory_that_is_not_shared_is_refused(tmp_path):
  code = (
    "from okd_jax.runs import workdir; workdir._SEEN_SECONDS = 1.0; "
    "import main; main.main()"
  )
  commands = [
    ["-c", code, *FOREIGN, f"--workdir={tmp_path / place / 'run'}"]
    for place in ("a", "b")
  ]
  for process in several.begin(*commands):
    _, errors = process.communicate(timeout=200)
    assert process.returncode == ConfigError.exit_code, errors
    assert "must be a folder that all processes share" in errors
