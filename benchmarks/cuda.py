"""Training steps compiled for an NVIDIA H100 without one.

    pip install 'jax[cuda13]'
    python -m benchmarks.cuda --method=okddip,independent --mapping=vmap,unroll

Prints a line a program: how many kernels a step starts, which of them are
convolutions, the bytes that they read and write and the time that takes at the
card's bandwidth, which is a bound and no measurement. Which of its algorithms
the library takes for a convolution is chosen on the card only.
"""

import collections
from pathlib import Path
import re
import sys
from typing import Any

from benchmarks import hbm, tpu, tpu_program
from benchmarks.tpu_program import Program

# What XLA has to know of a card: its own description of the H100 SXM.
TARGET = Path(__file__).with_name("h100.txtpb")
_BANDWIDTH = 3352320000000
_COMPUTATION = re.compile(r"\n(?=\S)")
_KERNEL = re.compile(
  r"^\s+(?:ROOT )?%?\S+ = .*?\s(fusion|custom-call|copy|reduce|transpose)\("
)
_TARGET_OF_CALL = re.compile(r'custom_call_target="([^"]+)"')


def devices() -> Any:
  """A card to be compiled for only."""
  import jax
  from jax._src import xla_bridge
  from jax.experimental import topologies
  import jax_plugins.xla_cuda13 as plugin

  # Before the plugin is there, or JAX would look for a card.
  jax.devices()
  library = plugin._get_library_path()
  if not xla_bridge.xla_client.pjrt_plugin_loaded("cuda"):
    xla_bridge.register_plugin("cuda", library_path=str(library))
  return topologies.get_topology_desc(
    platform="cuda",
    topology_name="",
    target_config=TARGET.read_text(),
    topology="1x1x1",
  ).devices


def facts(program: Program, compiled: Any, seconds: float) -> dict[str, Any]:
  """What the program says of a step; see the module."""
  text = compiled.as_text()
  kinds = kernels(text)
  moved = hbm.moved(text)
  return {
    "method": program.method,
    "net": program.net,
    "kind": program.kind,
    "peers": program.peers,
    "batch": program.batch,
    "mapping": program.mapping,
    "precision": program.precision,
    "kernels": sum(kinds.values()),
    "kinds": dict(kinds),
    "bytes": moved,
    "memory_ms": 1e3 * moved / _BANDWIDTH,
    "temporaries": compiled.memory_analysis().temp_size_in_bytes,
    "compile_seconds": seconds,
  }


def kernels(text: str) -> collections.Counter[str]:
  """What a compiled program starts, by kind; bodies of loops count once."""
  fused = set(re.findall(r"\b(?:calls|to_apply)=%?([\w.\-]+)", text))
  found = collections.Counter[str]()
  for block in _COMPUTATION.split(text):
    head = re.match(r"(?:ENTRY )?%?([\w.\-]+)", block)
    if not head or head[1] in fused:
      continue
    for line in block.splitlines()[1:]:
      kernel = _KERNEL.match(line)
      if kernel:
        call = _TARGET_OF_CALL.search(line)
        found[call[1] if call else kernel[1]] += 1
  return found


def line(found: dict[str, Any]) -> str:
  """The facts for people."""
  kinds = ", ".join(f"{n} {kind}" for kind, n in found["kinds"].items())
  return (
    f"{found['method']} {found['peers']} {found['net']} {found['kind']} batch "
    f"{found['batch']} {found['mapping']} {found['precision']}: "
    f"{found['kernels']} kernels ({kinds}), {found['bytes'] / 1e9:.2f} GB, at "
    f"least {found['memory_ms']:.2f} ms, temporaries "
    f"{found['temporaries'] / 1e6:.0f} MB, compiled in "
    f"{found['compile_seconds']:.0f} s"
  )


def main(argv: list[str]) -> None:
  args = tpu.parse(argv)
  tpu_program.prepare()
  card = devices()
  for program in tpu.programs(args):
    compiled, seconds = tpu_program.compile_program(program, card)
    found = facts(program, compiled, seconds)
    if args.text:
      args.text.write_text(compiled.as_text())
    tpu.show(line(found), found, args.json)


if __name__ == "__main__":
  main(sys.argv[1:])
