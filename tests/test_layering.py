"""Imports point downward: a module knows nothing of what is built on it."""

import ast
from pathlib import Path

import okd_jax

ROOT = Path(okd_jax.__file__).parent

LEVELS = {
  "losses": 0,
  "schedules": 0,
  "torch_archive": 0,
  "host": 0,
  "lock": 0,
  "processes": 0,
  "signals": 1,
  "manifest": 0,
  "leader": 0,
  "saved_model": 0,
  "core": 1,
  "layers": 1,
  "mesh": 1,
  "display": 1,
  "leaves": 1,
  "fusion": 1.5,
  "backbones": 2,
  "mapping": 2,
  "methods": 2,
  "data": 2,
  "optim": 2,
  "peers": 3,
  "mixed": 3.5,
  "interop": 3,
  "recipe": 4,
  "state": 4.5,
  "metrics": 4,
  "config": 4,
  "flag_errors": 5,
  "finite": 5,
  "distributed": 5,
  "steps": 5,
  "checkpoint": 5,
  "logs": 5,
  "trackers": 5.5,
  "evaluate": 6,
  "autotune": 5,
  "build": 6,
  "layout": 6,
  "running": 5,
  "programs": 5.5,
  "dispatch": 6,
  "doctor": 6,
  "summary": 6.5,
  "reopen": 6.5,
  "export": 6.7,
  "plots": 6.7,
  "init_from": 6.7,
  "teacher": 6.9,
  "predict": 6.9,
  "workdir": 6.9,
  "train": 7,
  "seeds": 7.5,
  "cli": 8,
  "tables": 1,
  "grid": 5,
  "results": 6,
  "result_tables": 6.1,
  "compare_plots": 6.8,
  "report": 6.9,
  "compare": 8,
}


def imports(path: Path) -> set[str]:
  """Modules of the package that a file imports."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module:
      parts = node.module.split(".")
      if parts[0] == "okd_jax":
        found |= {parts[1]} if len(parts) > 1 else {a.name for a in node.names}
    elif isinstance(node, ast.Import):
      for alias in node.names:
        parts = alias.name.split(".")
        if parts[0] == "okd_jax" and len(parts) > 1:
          found.add(parts[1])
  return found


def test_imports_point_downward():
  wrong = []
  for path in ROOT.rglob("*.py"):
    module = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if module in ("__init__", "__main__"):
      continue
    assert module in LEVELS, f"{module} has no level: add it here"
    for name in imports(path) - {module}:
      if LEVELS[name] >= LEVELS[module]:
        wrong.append(f"{path.relative_to(ROOT)} imports {name}")
  assert not wrong, wrong


def test_configurations_import_only_what_recipes_may():
  for path in (ROOT.parent / "configs").glob("*.py"):
    for name in imports(path):
      assert name in ("data", "methods", "optim"), f"{path.name}: {name}"
