"""What a compiled training step sends between devices."""

import dataclasses
import re
from typing import Any

_KINDS = (
  "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|"
  "collective-broadcast"
)
_LINE = re.compile(rf"= (.*?) ({_KINDS})(?:-start)?\((.*)")
_ARRAY = re.compile(r"([a-z]+)(\d+)\w*\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective operation of a compiled program.

  Attributes:
    kind: for example "all-reduce".
    shapes: of the arrays that come out on one device.
    size: their bytes.
    source: the operation of the program that it comes from.
  """

  kind: str
  shapes: tuple[tuple[int, ...], ...]
  size: int
  source: str


def collectives(compiled: Any) -> list[Collective]:
  """Lists the collectives of a compiled program that move anything.

  Args:
    compiled: what `jax.jit(...).lower(...).compile()` returns.
  """
  found = []
  for line in compiled.as_text().splitlines():
    match = _LINE.search(line)
    if match is None or _alone(match[3]):
      continue
    arrays = [
      (int(bits), tuple(int(n) for n in dims.split(",") if n))
      for _, bits, dims in _ARRAY.findall(match[1])
    ]
    size = 0
    for bits, shape in arrays:
      count = 1
      for length in shape:
        count *= length
      size += count * bits // 8
    name = re.search(r'op_name="([^"]*)"', line)
    found.append(
      Collective(
        match[2],
        tuple(shape for _, shape in arrays),
        size,
        name[1] if name else "",
      )
    )
  return found


def _alone(attributes: str) -> bool:
  """Whether every device only talks to itself: an axis of size one."""
  explicit = re.search(r"replica_groups=\{(\{[\d,{}]*\})\}", attributes)
  if explicit:
    return "," not in explicit[1].replace("},{", "}{")
  iota = re.search(r"replica_groups=\[\d+,(\d+)\]", attributes)
  return iota is not None and iota[1] == "1"
