"""Training steps compiled for TPUs without a TPU, and what that says.

    pip install 'jax[tpu]'
    python -m benchmarks.tpu --method=okddip,independent --mesh=1x1,1x4
    python -m benchmarks.tpu --table

Prints a line a program: bytes and operations of one device in one step, and the
time that they take at the chip's peak, which is a bound and no measurement.
`--method=plain` is the same training in plain Flax. `--table` writes the table
of docs/speed.md, from benchmarks/results/tpu.jsonl and, for rows that are not
in there, by compiling them; delete the file to compile all.
"""

import argparse
import dataclasses
import itertools
import json
from pathlib import Path
import sys
from typing import Any

from benchmarks import tpu_program, tpu_table
from benchmarks.tpu_program import Program


def parse(argv: list[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.tpu",
    epilog="Several values are separated by commas; every combination runs.",
  )
  plain = Program()
  for field in dataclasses.fields(Program):
    default = getattr(plain, field.name)
    if field.name == "mesh":
      default = "x".join(map(str, default))
    parser.add_argument(
      f"--{field.name}", default=str(default), help=f"default {default}"
    )
  parser.add_argument("--json", type=Path, help="file that lines are added to")
  parser.add_argument("--text", type=Path, help="file for the last program")
  parser.add_argument("--table", action="store_true")
  return parser.parse_args(argv)


def programs(args: argparse.Namespace) -> list[Program]:
  """All combinations of the values of the flags."""
  from okd_jax import methods

  flags = {
    field.name: getattr(args, field.name).split(",")
    for field in dataclasses.fields(Program)
  }
  if flags["method"] == ["all"]:
    flags["method"] = methods.names()
  made = []
  for values in itertools.product(*flags.values()):
    chosen: dict[str, Any] = dict(zip(flags, values, strict=True))
    chosen["mesh"] = tuple(int(n) for n in chosen["mesh"].split("x"))
    for name in ("peers", "batch", "steps"):
      chosen[name] = int(chosen[name])
    if chosen["method"] != tpu_program.PLAIN:
      needed = methods.load(chosen["method"])().needs.kind
      chosen["kind"] = needed or chosen["kind"]
    made.append(Program(**chosen))
  return made


def measure(program: Program, text: Path | None = None) -> dict[str, Any]:
  """Compiles a program and returns its facts."""
  compiled, seconds = tpu_program.compile_program(program)
  if text:
    text.write_text(compiled.as_text())
  return tpu_program.facts(program, compiled, seconds)


def line(found: dict[str, Any]) -> str:
  """The facts for people."""
  mesh = "x".join(map(str, found["mesh"]))
  sent = ", ".join(
    f"{count} {kind} {found['collective_bytes'][kind] / 1e6:.2f} MB"
    for kind, count in found["collectives"].items()
  )
  return (
    f"{found['topology']} {mesh} {found['method']} {found['peers']} "
    f"{found['net']} {found['kind']} batch {found['batch']} "
    f"{found['mapping']} {found['precision']}: {found['bytes'] / 1e9:.2f} GB, "
    f"{found['hbm'] / 1e9:.2f} GB of HBM, {found['flops'] / 1e9:.1f} GFLOP, "
    f"temporaries {found['temporaries'] / 1e6:.0f} MB, arguments "
    f"{found['arguments'] / 1e6:.1f} MB, code {found['code'] / 1e6:.1f} MB, "
    f"{found['copies']} copies, {found['transposes']} transposes, "
    f"{sent or 'no collectives'}, compiled in "
    f"{found['compile_seconds']:.0f} s; {found['cycles'] / 1e6:.2f} million "
    f"cycles, at least {found['roofline_ms']:.3f} ms ({found['bound_by']}), at "
    f"most {found['images_per_second']:.0f} images/s"
  )


def show(said: str, found: dict[str, Any], file: Path | None) -> None:
  """Prints a line, and adds the facts to a file."""
  print(said, flush=True)
  if file:
    with file.open("a") as lines:
      lines.write(json.dumps(found) + "\n")


def main(argv: list[str]) -> None:
  args = parse(argv)
  tpu_program.prepare()
  if args.table:
    tpu_table.write(measure)
    return
  for program in programs(args):
    found = measure(program, args.text)
    show(line(found), found, args.json)


if __name__ == "__main__":
  main(sys.argv[1:])
