"""Bytes that a program compiled for TPUs moves from and to its slow memory.

`cost_analysis` counts those of the memory on the chip as well, which costs
little. The text of the program says of each array where it lies: layouts with
`S(1)` are on the chip.
"""

import math
import re

_INSTRUCTION = re.compile(
  r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)"
)
_ARRAY = re.compile(r"([a-z]+)(\d+)?\w*\[([\d,]*)\](\{[^}]*\})?")
# They name memory and move none.
_MOVES_NOTHING = (
  "bitcast",
  "conditional",
  "constant",
  "get-tuple-element",
  "parameter",
  "tuple",
  "while",
)


def moved(text: str) -> int:
  """Bytes read from and written to HBM by a program.

  Bodies of loops count once, and whole arrays where a fusion reads a part.

  Args:
    text: of the compiled program.
  """
  fused = set(re.findall(r"\bcalls=%?([\w.\-]+)", text))
  applied = set(re.findall(r"\bto_apply=%?([\w.\-]+)", text))
  total = 0
  for block in re.split(r"\n(?=\S)", text):
    head = re.match(r"(?:ENTRY )?%?([\w.\-]+)", block)
    if head and head[1] not in fused | applied:
      total += _moved_by(block.splitlines()[1:])
  return total


def _moved_by(lines: list[str]) -> int:
  total = 0
  sizes: dict[str, int] = {}
  for line in lines:
    match = _INSTRUCTION.match(line)
    if match is None:
      continue
    name, kind, operation, rest = match.groups()
    arrays = [(_size(*a[:3]), _off_chip(a[3])) for a in _ARRAY.findall(kind)]
    if operation.endswith("-start"):
      # What is there, where it goes, in either order, and a semaphore. What is
      # awaited was counted here.
      sizes[name] = 0
      both = arrays[:2]
      total += min(size for size, _ in both) * sum(slow for _, slow in both)
      continue
    sizes[name] = sum(size for size, slow in arrays if slow)
    if operation.endswith("-done") or operation in _MOVES_NOTHING:
      continue
    operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
    total += sizes[name] + sum(sizes.get(operand, 0) for operand in operands)
  return total


def _off_chip(layout: str) -> bool:
  return re.search(r"S\([1-9]\)", layout) is None


def _size(kind: str, bits: str, dims: str) -> int:
  """Bytes of an array; tokens have none, booleans one each."""
  if kind == "token":
    return 0
  return math.prod(int(n) for n in dims.split(",") if n) * int(bits or 8) // 8
