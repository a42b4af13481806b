"""Our training step beside the same step in PyTorch.

    python -m benchmarks.train_step --net=resnet32 --peers=4 --batch=64

Every variant is a process of its own; they take turns, so that a change of the
machine's load meets all of them. Ratios are taken within a turn. Needs
requirements-bench.txt for the PyTorch side.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

BEGAN = time.monotonic()


class Worker:
  """A process that runs one side."""

  def __init__(
    self,
    name: str,
    argv: list[str],
    cache: str,
    mesh: list[int],
    flags: str = "",
  ):
    environment = os.environ | {
      "JAX_COMPILATION_CACHE_DIR": cache,
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
      # Several variants share one device.
      "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    virtual = f"--xla_force_host_platform_device_count={mesh[0] * mesh[1]}"
    environment["XLA_FLAGS"] = " ".join(
      [environment.get("XLA_FLAGS", ""), virtual, flags]
    )
    self._process = subprocess.Popen(
      [sys.executable, "-m", "benchmarks.train_step", *argv, "--worker", name],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=environment,
    )
    self.about = self._reply()

  def run(self, num_steps: int) -> dict[str, Any]:
    assert self._process.stdin is not None
    print(num_steps, file=self._process.stdin, flush=True)
    return self._reply()

  def close(self) -> None:
    self._process.communicate()

  def _reply(self) -> dict[str, Any]:
    assert self._process.stdout is not None
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError(f"worker ended with {self._process.wait()}")
    return json.loads(line)


def parse(argv: list[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step")
  parser.add_argument("--method", default="okddip")
  parser.add_argument("--net", default="resnet32")
  parser.add_argument("--peers", type=int, default=4)
  parser.add_argument(
    "--kind", choices=("replicas", "branches"), default="replicas"
  )
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--precision", choices=("f32", "bf16"), default="f32")
  parser.add_argument("--mapping", default="auto")
  parser.add_argument(
    "--mesh",
    type=lambda text: [int(n) for n in text.split("x")],
    default=[1, 1],
    help="devices on data x peer, for example 1x2; virtual ones on CPU",
  )
  parser.add_argument(
    "--backend",
    default="jax,torch,torch channels-last",
    help="jax, torch, both (all there are), or variants joined by commas: "
    "jax, jax chunk, torch, torch channels-last, torch compiled",
  )
  parser.add_argument(
    "--threads", type=int, default=len(os.sched_getaffinity(0))
  )
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument("--seconds", type=float, default=2.0, help="of one turn")
  parser.add_argument("--json", type=pathlib.Path, help="file for the result")
  parser.add_argument("--worker", help=argparse.SUPPRESS)
  return parser.parse_args(argv)


def variants(backend: str) -> list[str]:
  from benchmarks.sides import SIDES

  names = list(SIDES)
  chosen = {
    "both": names,
    "jax": ["jax"],
    "torch": [name for name in names if name.startswith("torch")],
  }.get(backend, backend.split(","))
  for name in chosen:
    if name not in SIDES:
      raise SystemExit(f"--backend: '{name}' is none of {', '.join(SIDES)}")
  return chosen


def processor() -> str:
  """The CPU's name, where Linux tells it."""
  about = pathlib.Path("/proc/cpuinfo")
  lines = about.read_text().splitlines() if about.exists() else []
  names = [line for line in lines if line.startswith("model name")]
  return names[0].partition(":")[2].strip() if names else platform.machine()


def measure(args: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
  """Runs all variants in turns.

  Returns:
    The setting, and for every variant its start-up seconds, seconds a step of
    every turn, and memory.
  """
  result: dict[str, Any] = about(args) | {"variants": {}}
  workers: dict[str, Worker] = {}
  with tempfile.TemporaryDirectory() as cache:
    for name in variants(args.backend):
      cold = Worker(name, argv, cache, args.mesh)
      started = {"cold": cold.about["seconds"]}
      if name.startswith("jax") or name.endswith("compiled"):
        cold.close()
        workers[name] = Worker(name, argv, cache, args.mesh)
        started["warm"] = workers[name].about["seconds"]
      else:
        workers[name] = cold
      result["variants"][name] = started
  measured = take_turns(workers, args.rounds, args.seconds)
  for name, turns in measured.items():
    result["variants"][name] |= turns
  result["load_after"] = os.getloadavg()[0]
  return result


def about(args: argparse.Namespace) -> dict[str, Any]:
  """What was measured and where."""
  return {
    "setting": {
      name: value
      for name, value in vars(args).items()
      if name not in ("json", "worker")
    },
    "processor": processor(),
    "load_before": os.getloadavg()[0],
  }


def take_turns(
  workers: dict[Any, Worker], rounds: int, seconds: float
) -> dict[Any, dict[str, Any]]:
  """Lets every worker run in every round, and closes them.

  Args:
    workers: that are ready.
    rounds: number of turns of each.
    seconds: that a turn takes, about.

  Returns:
    For each worker what it is, seconds a step of every turn, and memory.
  """
  # The second and third step of a compiled program can still be slow: graphs
  # are recorded there.
  for worker in workers.values():
    worker.run(2)
  counts = {
    name: max(1, round(seconds / worker.run(1)["seconds"]))
    for name, worker in workers.items()
  }
  found: dict[Any, dict[str, Any]] = {
    name: {"about": worker.about, "step_seconds": []}
    for name, worker in workers.items()
  }
  for turn in range(rounds):
    names = list(workers) if turn % 2 == 0 else list(reversed(workers))
    for name in names:
      reply = workers[name].run(counts[name])
      each = found[name]
      each["step_seconds"].append(reply["seconds"] / counts[name])
      each["host_bytes"] = reply["host_bytes"]
      each["device_bytes"] = reply["device_bytes"]
  for worker in workers.values():
    worker.close()
  return found


def table(result: dict[str, Any]) -> str:
  """The result for people, ratios last."""
  from benchmarks.sides import PEAKS

  setting = result["setting"]
  lines = [
    " ".join(f"{k}={v}" for k, v in setting.items()),
    f"load before {result['load_before']:.1f}, after "
    f"{result['load_after']:.1f}, of {os.cpu_count()} cores, "
    f"{result['processor']}",
    f"{'variant':20} {'ms/step':>9} {'min':>8} {'max':>8} {'images/s':>9} "
    f"{'MFU':>6} {'cold s':>7} {'warm s':>7} {'MiB':>6}",
  ]
  found = result["variants"]
  counted = [
    v["about"]["multiply_adds"]
    for v in found.values()
    if "multiply_adds" in v["about"]
  ]
  for name, each in found.items():
    seconds = each["step_seconds"]
    median = statistics.median(seconds)
    images = setting["batch"]
    peak = PEAKS.get(each["about"]["device"], {}).get(setting["precision"])
    mfu = ""
    if peak and counted:
      # A multiply-add is two operations; backward costs twice the forward.
      flops = 6 * counted[0] * images
      mfu = f"{flops / median / peak:.1%}"
    memory = each["device_bytes"] or each["host_bytes"]
    warm = f"{each['warm']['total']:.1f}" if "warm" in each else ""
    lines.append(
      f"{name:20} {1e3 * median:9.2f} {1e3 * min(seconds):8.2f} "
      f"{1e3 * max(seconds):8.2f} {images / median:9.0f} {mfu:>6} "
      f"{each['cold']['total']:7.1f} {warm:>7} {memory / 2**20:6.0f}"
    )
    parts = each.get("warm", each["cold"])
    lines.append(
      f"{'':20} "
      + ", ".join(
        f"{part} {each['cold'][part]:.1f}/{parts[part]:.1f}" for part in parts
      )
      + " s cold/warm"
    )
  first, *others = found
  for name in others:
    ratios = [
      theirs / ours
      for ours, theirs in zip(
        found[first]["step_seconds"], found[name]["step_seconds"], strict=True
      )
    ]
    lines.append(
      f"{first} is {statistics.median(ratios):.2f} times as fast as {name} "
      f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
  return "\n".join(lines)


def main(argv: list[str]) -> None:
  args = parse(argv)
  if args.worker:
    from benchmarks import sides

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    sides.serve(args, BEGAN)
    return
  result = measure(args, argv)
  if args.json:
    args.json.write_text(json.dumps(result, indent=2) + "\n")
  print(table(result))


if __name__ == "__main__":
  main(sys.argv[1:])
