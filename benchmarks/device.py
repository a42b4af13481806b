"""Checks all methods on one accelerator and times training steps.

    python -m benchmarks.device FOLDER [--net=resnet8 --batch=8 ...]

All programs are made at the same time, each in a process of its own, which is
what takes long, and beside them the checks; then the programs take turns on the
idle device. What follows the folder goes to every program. Writes a file for
each setting, which `benchmarks.goals` reads.
"""

from concurrent.futures import ThreadPoolExecutor
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks import train_step
from okd_jax import methods

_ALONE = ["--precision=bf16", "--backend=jax chunk"]
SETTINGS = {
  "okddip_bf16": [
    "--precision=bf16",
    "--backend=jax chunk,torch,torch channels-last,torch compiled",
  ],
  "okddip_f32": ["--backend=jax chunk,torch,torch channels-last"],
  "branches_bf16": [*_ALONE, "--kind=branches"],
  "independent_bf16": [*_ALONE, "--method=independent"],
  "single_bf16": [*_ALONE, "--method=independent", "--peers=1"],
  "vmap_bf16": [*_ALONE, "--mapping=vmap"],
  "unroll_bf16": [*_ALONE, "--mapping=unroll"],
  "deterministic_bf16": _ALONE,
}
_FLAGS = {"deterministic_bf16": "--xla_gpu_deterministic_ops=true"}


def start(
  name: str, variant: str, argv: list[str], cache: str
) -> train_step.Worker | str:
  """Returns a program that is ready, or why there is none."""
  try:
    return train_step.Worker(
      variant, argv, f"{cache}/{name}", [1, 1], flags=_FLAGS.get(name, "")
    )
  except RuntimeError as error:
    return f"{name}, {variant}: {error}"


def check(method: str) -> str:
  """What `benchmarks.checks` says of a method."""
  command = [sys.executable, "-m", "benchmarks.checks", method]
  done = subprocess.run(command, capture_output=True, text=True)
  said = [line for line in done.stdout.splitlines() if method in line]
  return "\n".join(said or [f"{method} WRONG: {done.stderr[-2000:]}"])


def main(argv: list[str]) -> int:
  folder, *more = argv
  common = ["--batch=128", "--rounds=5", "--seconds=1", *more]
  arguments = {name: [*common, *each] for name, each in SETTINGS.items()}
  parsed = {name: train_step.parse(each) for name, each in arguments.items()}
  programs = [
    (name, variant)
    for name, args in parsed.items()
    for variant in train_step.variants(args.backend)
  ]
  with (
    tempfile.TemporaryDirectory() as cache,
    ThreadPoolExecutor(len(programs)) as pool,
    ThreadPoolExecutor(os.cpu_count()) as checks,
  ):
    # The keypoints' method needs a data set of its own.
    classifying = [
      name
      for name in methods.names()
      if "classification" in methods.load(name)().tasks
    ]
    checked = checks.map(check, classifying)
    started = pool.map(
      lambda each: start(each[0], each[1], arguments[each[0]], cache), programs
    )
    workers = dict(zip(programs, started, strict=True))
    report = "\n".join(checked)
  Path(folder, "checks.txt").write_text(report + "\n")
  print(report, flush=True)
  failed = [each for each in workers.values() if isinstance(each, str)]
  ready = {
    program: worker
    for program, worker in workers.items()
    if not isinstance(worker, str)
  }
  turns = train_step.parse(common)
  measured = train_step.take_turns(ready, turns.rounds, turns.seconds)
  for each in measured.values():
    each["cold"] = each["about"]["seconds"]
  for name, args in parsed.items():
    found = {v: each for (n, v), each in measured.items() if n == name}
    result: dict[str, Any] = train_step.about(args) | {"variants": found}
    file = Path(folder, f"{name}.json")
    file.write_text(json.dumps(result, indent=2) + "\n")
    for variant, each in found.items():
      milliseconds = 1e3 * statistics.median(each["step_seconds"])
      print(
        f"{name:20} {variant:20} {milliseconds:8.2f} ms a step, "
        f"{args.batch / milliseconds * 1e3:8.0f} images/s, "
        f"{each['device_bytes'] / 2**20:6.0f} MiB, "
        f"{each['cold']['total']:6.1f} s to start beside the others"
      )
  print("\n".join(failed), file=sys.stderr)
  return 1 if failed or "WRONG" in report else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
