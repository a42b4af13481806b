"""The tables of docs/speed.md and docs/scaling_out.md, by `benchmarks.tpu`."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import json
from pathlib import Path
from typing import Any

from benchmarks.tpu_program import PLAIN, Program

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "tpu.jsonl"
SPEED = ROOT / "docs" / "speed.md"
SCALE = ROOT / "docs" / "scaling_out.md"
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
  "chip-minutes, CIFAR-100",
)
_COLUMNS_OF_SCALE = (
  "chips, mesh",
  "batch",
  "ms a step, estimate",
  "GB of HBM",
  "messages",
  "MB in them",
  "images/s of all, estimate",
  "images/s a host",
  "cores a host",
  "seconds an epoch",
)
_NET_OF_SCALE, _IMAGES_OF_SCALE = "resnet34", 1_281_167
# 300 epochs, as published.
_IMAGES_OF_CIFAR = 300 * 50_000
# Of v5e, https://cloud.google.com/tpu/docs/v5e.
_CHIPS_OF_HOST = 8
# What a core reads, decodes and crops of photographs, with something to spare,
# see docs/scaling_out.md.
_IMAGES_OF_CORE = 215


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
    made += [dataclasses.replace(alone, net=net), Program(net=net)]
  made += [
    dataclasses.replace(alone, net="resnet110", peers=1),
    Program(net="resnet110", mesh=(1, 4)),
    Program(net="resnet110", mapping="unroll"),
  ]
  return list(dict.fromkeys(made + rows_of_scale()))


def rows_of_scale() -> list[Program]:
  """ImageNet on slices: 32 images of four peers a chip, or 128 of one."""
  made = []
  for topology, chips in (("v5e:2x4", 8), ("v5e:8x8", 64), ("v5e:16x16", 256)):
    for mesh in ((chips // 4, 4), (chips, 1)):
      made.append(
        Program(
          topology=topology, mesh=mesh, net=_NET_OF_SCALE, batch=32 * chips
        )
      )
  return made


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
      write_pages(found)
  write_pages(found)


def tables(found: dict[Program, dict[str, Any]]) -> dict[Path, str]:
  """The table of each page, of what was found."""
  return {
    SPEED: _table(_COLUMNS, rows(), found, _cells),
    SCALE: _table(_COLUMNS_OF_SCALE, rows_of_scale(), found, _cells_of_scale),
  }


def write_pages(found: dict[Program, dict[str, Any]]) -> None:
  """Puts the tables between the marks of their pages."""
  for page, table in tables(found).items():
    before, rest = page.read_text().split(_BEGIN)
    after = rest.split(_END, 1)[1]
    page.write_text(f"{before}{_BEGIN}\n\n{table}\n\n{_END}{after}")


def _table(
  columns: Sequence[str],
  programs: Sequence[Program],
  found: dict[Program, dict[str, Any]],
  cells: Callable[[dict[str, Any]], Iterator[str]],
) -> str:
  lines = [columns, ["---"] * len(columns)]
  lines += [list(cells(found[p])) for p in programs if p in found]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
  images = 1e3 * facts["batch"] / facts["estimated_ms"]
  yield f"{images:.0f}"
  chips = facts["mesh"][0] * facts["mesh"][1]
  of_cifar = facts["net"] != _NET_OF_SCALE
  yield f"{chips * _IMAGES_OF_CIFAR / images / 60:.0f}" if of_cifar else ""


def _cells_of_scale(facts: dict[str, Any]) -> Iterator[str]:
  chips = facts["mesh"][0] * facts["mesh"][1]
  images = 1e3 * facts["batch"] / facts["estimated_ms"]
  of_host = images * _CHIPS_OF_HOST / chips
  yield f"{chips}, {'x'.join(map(str, facts['mesh']))}"
  yield str(facts["batch"])
  yield f"{facts['estimated_ms']:.1f}"
  yield f"{facts['hbm'] / 1e9:.2f}"
  yield str(sum(facts["collectives"].values()))
  yield f"{sum(facts['collective_bytes'].values()) / 1e6:.0f}"
  yield f"{images:.0f}"
  yield f"{of_host:.0f}"
  yield f"{of_host / _IMAGES_OF_CORE:.0f}"
  yield f"{_IMAGES_OF_SCALE / images:.1f}"
