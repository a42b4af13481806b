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
# They name memory and move none; what is awaited was counted at its start.
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

  Bodies of loops count once, and whole arrays where a part may be read.

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
    arrays = [_off_chip(*array) for array in _ARRAY.findall(kind)]
    started = operation.endswith("-start")
    # A start gives what will be there, its operand again, and a semaphore.
    sizes[name] = arrays[0] if started and arrays else sum(arrays)
    if operation.endswith("-done") or operation in _MOVES_NOTHING:
      continue
    operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
    total += sizes[name] + sum(sizes.get(operand, 0) for operand in operands)
  return total


def _off_chip(kind: str, bits: str, dims: str, layout: str) -> int:
  if re.search(r"S\([1-9]\)", layout) or kind == "token":
    return 0
  count = math.prod(int(n) for n in dims.split(",") if n)
  return count * int(bits or 8) // 8
