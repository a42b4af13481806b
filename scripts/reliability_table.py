"""Writes docs/reliability.md from the tests' `checklist` marks.

python scripts/reliability_table.py
"""

import ast
from pathlib import Path
import sys

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"

CASES = {
  "A1": "Signals while compiling, training, evaluating, saving, exporting: the "
  "last finished step is saved, exit code 75; a second signal exits at once, "
  "and so does a run that hangs",
  "A2": "kill -9 at any moment, also inside a save: the same command goes on, "
  "at most one save interval is lost",
  "A3": "Death between write, rename and manifest: the previous checkpoint",
  "A4": "A signal to one of two processes: both stop at the same step",
  "A5": "A process of several that is killed, stopped, fails or loses its "
  "disk: the others name it and end within two minutes; the same command goes "
  "on",
  "B1": "N steps at once against k steps, a stop and N - k steps, for every "
  "method: equal to the bit",
  "B2": "B1 on an accelerator with `config.deterministic`",
  "B3": "The same seed twice on CPU: equal to the bit",
  "B4": "1, 2 and 8 devices: equal to 1e-9 in float64 after five steps",
  "C1": "A flipped bit anywhere in a checkpoint: found, named, not used",
  "C2": "Truncated, empty, missing, unreadable files: not used, never silent",
  "C3": "A checkpoint of another configuration: refused with the differences",
  "C4": "Another number of devices, an earlier release: equal to the bit",
  "C5": "A background save that fails: raised by the next step",
  "D1": "Order of data after a resume or on other devices: the same",
  "D2": "Augmentation and dropout: functions of seed, step, slot and peer",
  "D3": "Evaluation with any batch size: every example counted once",
  "E1": "A number that is not finite: the run stops, names it, saves nothing",
  "E2": "Divergences of equal and extreme logits, bfloat16 and float32: finite",
  "F1": "Full disk, workdir that cannot be written: checkpoints stay, message",
  "F2": "Retention keeps the newest verified and the best checkpoint",
  "G1": "A wrong value for every key, mistaken flags: exit code 2 in seconds",
  "G2": "Resuming under another configuration: refused with the differences",
  "H1": "Damaged or inconsistent data: file and rule named, exit code 3",
  "H2": "Missing data, no network: paths and expected files in seconds",
  "I1": "A tracker that fails: one warning, the run goes on",
  "I2": "Two runs in one workdir: the second is refused; stale locks recover",
  "J1": "One trace of the training step and one of evaluation in a run",
  "J2": "What the training step sends between devices",
  "J3": "Memory of device and host stays flat over a thousand steps",
  "J4": "Hours of random kills: equal to a run that was left alone",
  "K1": "An exported leader in a fresh process without okd_jax",
  "K2": "Every recipe trains, evaluates and resumes",
  "security": "Nothing from outside is run, unpickled or written elsewhere",
}
# Rows that no test of this kind can cover.
BY_HAND = {
  "B2": "on a machine with a GPU: `python scripts/soak.py --config=... "
  "--config.deterministic=True`",
  "J4": "for a day: `python scripts/soak.py --hours=24 --config=...`",
}


def marks(path: Path) -> list[tuple[str, str, bool]]:
  """Row, test name and whether it is slow, for every mark in a file."""
  found = []
  for node in ast.parse(path.read_text()).body:
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
      continue
    named = {}
    for mark in node.decorator_list:
      call = mark if isinstance(mark, ast.Call) else ast.Call(mark, [], [])
      if isinstance(call.func, ast.Attribute):
        named[call.func.attr] = [
          arg.value for arg in call.args if isinstance(arg, ast.Constant)
        ]
    for row in named.get("checklist", []):
      found.append((row, node.name, "slow" in named))
  return found


def page() -> str:
  """The text of docs/reliability.md.

  Raises:
    ValueError: if a mark names no row, or a row has no test.
  """
  tests: dict[str, list[str]] = {row: [] for row in CASES}
  folder = ROOT / "tests"
  for path in sorted(folder.rglob("test_*.py")):
    for row, name, slow in marks(path):
      if row not in tests:
        raise ValueError(f"{path}: {name} covers an unknown row, {row!r}.")
      shown = f"`{path.relative_to(folder)}::{name}`"
      tests[row].append(f"{shown} (slow)" if slow else shown)
  lines = [
    "# Reliability",
    "",
    "What a run survives or refuses, and the tests that show it. Tests marked",
    "slow run with `pytest -m slow`. Written by `scripts/reliability_table.py`",
    "from the tests' `checklist` marks.",
    "",
    "| row | case | tests |",
    "|---|---|---|",
  ]
  for row, case in CASES.items():
    shown = tests[row] + ([BY_HAND[row]] if row in BY_HAND else [])
    if not shown:
      raise ValueError(f"row {row} has no test: {case}.")
    lines.append(f"| {row} | {case} | {'<br>'.join(shown)} |")
  return "\n".join(lines) + "\n"


def main() -> int:
  PAGE.write_text(page())
  return 0


if __name__ == "__main__":
  sys.exit(main())
