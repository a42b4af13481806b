"""What lies in deploy/, as far as it can be checked without a cluster."""

import os
from pathlib import Path
import subprocess
import sys

import pytest
import yaml

from okd_jax import errors
from okd_jax.cli import common
from okd_jax.devices import signals

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"

# The fields that the manifest relies on, required ones with "!". Of a JobSet:
# config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml of
# kubernetes-sigs/jobset (v1alpha2; status of a condition is required there,
# though not of a Job). Of Jobs and pods: job-v1 and pod-v1 of
# https://kubernetes.io/docs/reference/kubernetes-api/workload-resources.
EXIT_CODES = {
  "containerName": str,
  "operator!": {"In", "NotIn"},
  "values!": [int],
}
RULE = {
  "action!": {"FailJob", "FailIndex", "Ignore", "Count"},
  "onExitCodes": EXIT_CODES,
  "onPodConditions": [{"type!": str, "status!": {"True", "False", "Unknown"}}],
}
CONTAINER = {
  "name!": str,
  "image!": str,
  "args": [str],
  "resources": {"limits": {"nvidia.com/gpu": int}},
}
POD = {
  "restartPolicy!": {"Never"},  # or no rules for failures
  "terminationGracePeriodSeconds": int,
  "serviceAccountName": str,
  "containers!": [CONTAINER],
}
JOB = {
  "parallelism": int,
  "completions": int,
  "completionMode": {"Indexed", "NonIndexed"},
  "backoffLimitPerIndex": int,
  "podFailurePolicy": {"rules!": [RULE]},
  "template!": {"spec!": POD},
}
JOB_SET = {
  "apiVersion!": {"jobset.x-k8s.io/v1alpha2"},
  "kind!": {"JobSet"},
  "metadata!": {"name!": str},
  "spec!": {
    "replicatedJobs!": [
      {"name!": str, "replicas": int, "template!": {"spec!": JOB}}
    ]
  },
}

# https://cloud.google.com/sdk/gcloud/reference/compute/tpus/queued-resources/create
TPU_FLAGS = {
  "--node-id",
  "--zone",
  "--accelerator-type",
  "--runtime-version",
  "--spot",
  "--metadata-from-file",
}


def mistakes(value, schema, where="manifest"):
  """What does not fit: fields, kinds and values."""
  if isinstance(schema, set):
    return [] if value in schema else [f"{where}: {value!r}"]
  if isinstance(schema, type):
    return [] if type(value) is schema else [f"{where}: {value!r}"]
  if isinstance(schema, list):
    if not isinstance(value, list) or not value:
      return [f"{where}: {value!r}"]
    found = (
      mistakes(v, schema[0], f"{where}[{i}]") for i, v in enumerate(value)
    )
    return sum(found, [])
  if not isinstance(value, dict):
    return [f"{where}: {value!r}"]
  known = {key.rstrip("!"): kind for key, kind in schema.items()}
  found = [f"{where}.{key}: unknown" for key in value.keys() - known.keys()]
  found += [
    f"{where}.{key[:-1]}: missing"
    for key in schema
    if key.endswith("!") and key[:-1] not in value
  ]
  for key in value.keys() & known.keys():
    found += mistakes(value[key], known[key], f"{where}.{key}")
  return found


@pytest.fixture
def job_set():
  return yaml.safe_load((DEPLOY / "jobset.yaml").read_text())


def test_the_job_set_has_the_fields_of_one(job_set):
  assert mistakes(job_set, JOB_SET) == []


def test_mistakes_in_a_job_set_are_found(job_set):
  job = job_set["spec"]["replicatedJobs"][0]["template"]["spec"]
  del job["podFailurePolicy"]["rules"][1]["onPodConditions"][0]["status"]
  job["template"]["spec"]["restartPolicy"] = "Always"
  job["completion"] = job.pop("completions")
  found = mistakes(job_set, JOB_SET)
  assert len(found) == 3
  assert any(
    text.endswith(".onPodConditions[0].status: missing") for text in found
  )


def test_the_job_set_knows_our_codes_and_runs_a_command(job_set):
  job = job_set["spec"]["replicatedJobs"][0]["template"]["spec"]
  assert job["parallelism"] == job["completions"]
  (container,) = job["template"]["spec"]["containers"]
  rules = job["podFailurePolicy"]["rules"]
  by_code = {
    code: rule["action"]
    for rule in rules
    for code in rule.get("onExitCodes", {"values": []})["values"]
  }
  assert {
    rule["onExitCodes"]["containerName"]
    for rule in rules
    if "onExitCodes" in rule
  } == {container["name"]}
  assert by_code == {
    signals.EXIT_CODE: "Ignore",
    errors.OkdError.exit_code: "FailIndex",
    errors.ConfigError.exit_code: "FailIndex",
  }
  require_command(container["args"])


def require_command(args):
  """Refuses what `python` would not run as a worker."""
  assert args[:3] == ["-m", "okd_jax", "compare"]
  settings = [word for word in args[3:] if word != "--skip-failed"]
  words = [
    f"--workdir={ROOT}" if word.startswith("--workdir=gs://") else word
    for word in settings
  ]
  words = [word.replace("configs/", f"{ROOT}/configs/") for word in words]
  common.read_comparison(["compare", *words])


def test_tpu_machines_are_asked_for_one_by_one(tmp_path):
  log = tmp_path / "log"
  fake = tmp_path / "gcloud"
  fake.write_text(
    "#!/bin/bash\n"
    f'printf "%s\\n" "$@" >>{log}\n'
    f'last="${{@: -1}}"; cat "${{last##*=}}" >{tmp_path}/start\n'
  )
  fake.chmod(0o755)
  command = [DEPLOY / "tpu_queued.sh", "2", "--config=configs/compare_c100.py"]
  command += ["--workdir=gs://BUCKET/runs/c 100"]
  environ = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
  environ |= {"ZONE": "us-west4-a", "IMAGE": "host/name/okd-jax:tpu"}
  subprocess.run(command, env=environ, check=True)
  words = log.read_text().splitlines()
  assert words.count("create") == 2
  assert [w for w in words if w.startswith("okd-")] == ["okd-1", "okd-2"]
  flags = {word.partition("=")[0] for word in words if word.startswith("--")}
  assert flags == TPU_FLAGS
  start = (tmp_path / "start").read_text().splitlines()
  assert start[1] == "gcloud auth configure-docker 'host' --quiet"
  shown = subprocess.run(
    ["bash", "-c", f"docker() {{ printf '%s\\n' \"$@\"; }}; {start[2]}"],
    capture_output=True,
    text=True,
    check=True,
  ).stdout.splitlines()
  worker = shown[shown.index("host/name/okd-jax:tpu") + 1 :]
  assert "--workdir=gs://BUCKET/runs/c 100" in worker
  require_command(worker)


def test_tpu_machines_need_a_zone(tmp_path):
  environ = {k: v for k, v in os.environ.items() if k not in ("ZONE", "IMAGE")}
  done = subprocess.run(
    [DEPLOY / "tpu_queued.sh", "2"], env=environ, capture_output=True
  )
  assert done.returncode and b"ZONE" in done.stderr


def instructions():
  """Of the Dockerfile, with continued lines joined."""
  text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
  lines = (line.split(" ", 1) for line in text.splitlines() if line.strip())
  return [(word, rest) for word, rest in lines if word != "#"]


def test_the_image_copies_what_there_is():
  found = instructions()
  assert [word for word, _ in found][:2] == ["FROM", "ARG"]
  (device,) = (rest for word, rest in found if word == "ARG")
  assert device == "DEVICE=cpu"
  for word, rest in found:
    if word == "COPY":
      assert (ROOT / rest.split()[0]).exists()
  assert ("ENTRYPOINT", '["python"]') in found


@pytest.mark.slow
@pytest.mark.network
def test_the_images_packages_train(tmp_path):
  """Its lines for pip, in a fresh environment, are all that a run needs."""
  venv = tmp_path / "venv"
  subprocess.run([sys.executable, "-m", "venv", venv], check=True)
  environ = {
    k: v
    for k, v in os.environ.items()
    if k not in ("PYTHONPATH", "VIRTUAL_ENV")
  }
  environ |= {"PATH": f"{venv}/bin:{os.environ['PATH']}", "DEVICE": "cpu"}
  installs = [rest for word, rest in instructions() if "pip install" in rest]
  assert len(installs) == 2

  def run(command):
    subprocess.run(["bash", "-c", command], env=environ, cwd=ROOT, check=True)

  for line in installs:
    run(line)
  run(
    "python -m okd_jax compare --config=configs/compare_digits.py:smoke "
    "--config.base.data.train_examples=60 --only='*/baseline/seed0' "
    f"--workdir={tmp_path}/compared"
  )
  assert "| baseline |" in (tmp_path / "compared" / "table.md").read_text()
  run("python -c 'from okd_jax.storage import bucket; bucket.path(\"gs://b\")'")
