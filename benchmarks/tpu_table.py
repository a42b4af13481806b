"""The table of docs/speed.md, of programs compiled by `benchmarks.tpu`."""

from collections.abc import Callable, Iterator
import dataclasses
import json
from pathlib import Path
from typing import Any

from benchmarks.tpu_program import PLAIN, Program

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "tpu.jsonl"
PAGE = ROOT / "docs" / "speed.md"
_BEGIN, _END = "<!-- table of benchmarks.tpu -->", "<!-- end -->"
_COLUMNS = (
  "program",
  "slice, mesh",
  "batch",
  "ms, compiler's estimate",
  "GB of HBM",
  "GB in all",
  "GFLOP",
  "MB of temporaries",
  "collectives",
  "s to compile",
  "images/s, estimate",
)


def rows() -> list[Program]:
  """What the table shows, in its order."""
  from okd_jax import methods

  alone = Program(method="independent")
  made = [
    Program(method=PLAIN, peers=1),
    dataclasses.replace(alone, peers=1),
    Program(method=PLAIN),
    alone,
    dataclasses.replace(alone, mapping="unroll"),
    Program(mapping="unroll"),
    dataclasses.replace(alone, kind="branches"),
    Program(kind="branches"),
    Program(steps=512),
    Program(mesh=(1, 4)),
    Program(mesh=(4, 1)),
    Program(mesh=(1, 4), batch=512),
    Program(mesh=(4, 1), batch=512),
    Program(topology="v5e:2x4", mesh=(2, 4), batch=256),
    Program(topology="v5e:16x16", mesh=(64, 4), batch=8192),
  ]
  for name in methods.names():
    method = methods.make(name)
    if method.task == "classification" and name != "independent":
      made += [Program(method=name, kind=method.needs.kind or "replicas")]
  for net in ("resnet110", "wrn20_8"):
    made += [Program(method="independent", net=net), Program(net=net)]
  # ImageNet, 32 images of four peers a chip or 128 of one.
  for topology, chips in (("v5e:2x4", 8), ("v5e:8x8", 64), ("v5e:16x16", 256)):
    slice_ = Program(topology=topology, net="resnet34", batch=32 * chips)
    made += [
      dataclasses.replace(slice_, mesh=(chips // 4, 4)),
      dataclasses.replace(slice_, mesh=(chips, 1)),
    ]
  return list(dict.fromkeys(made))


def read(path: Path = RESULTS) -> dict[Program, dict[str, Any]]:
  """What was found, the last result of a program counts."""
  found = {}
  lines = path.read_text().splitlines() if path.exists() else []
  names = [field.name for field in dataclasses.fields(Program)]
  for line in lines:
    facts = json.loads(line)
    facts["mesh"] = tuple(facts["mesh"])
    chosen = {name: facts[name] for name in names if name in facts}
    found[Program(**chosen)] = facts
  return found


def write(measure: Callable[[Program], dict[str, Any]]) -> None:
  """Compiles what is missing and writes the table into its page."""
  found = read()
  for program in rows():
    if program not in found:
      found[program] = measure(program)
      with RESULTS.open("a") as file:
        file.write(json.dumps(found[program]) + "\n")
      write_page(found)
  write_page(found)


def write_page(found: dict[Program, dict[str, Any]]) -> None:
  """Puts the table of what was found between the marks of its page."""
  before, rest = PAGE.read_text().split(_BEGIN)
  after = rest.split(_END)[1]
  table = "\n".join(table_of(found))
  PAGE.write_text(f"{before}{_BEGIN}\n\n{table}\n\n{_END}{after}")


def table_of(found: dict[Program, dict[str, Any]]) -> Iterator[str]:
  """The lines of the table."""
  yield f"| {' | '.join(_COLUMNS)} |"
  yield "|" + "---|" * len(_COLUMNS)
  for program in rows():
    if program in found:
      yield f"| {' | '.join(_cells(found[program]))} |"


def _cells(facts: dict[str, Any]) -> Iterator[str]:
  kind = "networks" if facts["kind"] == "replicas" else "branches"
  if facts["peers"] == 1:
    kind = "network"
  mapping = f", {facts['mapping']}" if facts["peers"] > 1 else ""
  steps = facts.get("steps", 1)
  loop = f", loop of {steps}" if steps > 1 else ""
  yield (
    f"{facts['peers']} {facts['net']} {kind}, {facts['method']}{mapping}{loop}"
  )
  yield f"{facts['topology']}, {'x'.join(map(str, facts['mesh']))}"
  yield str(facts["batch"])
  yield f"{facts['estimated_ms']:.2f}"
  yield f"{facts['hbm'] / 1e9:.2f}"
  yield f"{facts['bytes'] / 1e9:.2f}"
  yield f"{facts['flops'] / 1e9:.0f}"
  yield f"{facts['temporaries'] / 1e6:.0f}"
  sent = sum(facts["collective_bytes"].values())
  count = sum(facts["collectives"].values())
  yield f"{count}, {sent / 1e6:.1f} MB" if count else ""
  yield f"{facts['compile_seconds']:.0f}"
  yield f"{1e3 * facts['batch'] / facts['estimated_ms']:.0f}"
