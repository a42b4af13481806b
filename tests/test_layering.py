"""Imports point downward: a module knows nothing of what is built on it."""

import ast
from pathlib import Path

import okd_jax

ROOT = Path(okd_jax.__file__).parent

# From the bottom up: each imports only from those before it.
PACKAGES = (
  "errors",
  "rules",
  "outside",
  "trees",
  "schedules",
  "losses",
  "layers",
  "batch",
  "core",
  "devices",
  "storage",
  "backbones",
  "methods",
  "groups",
  "data",
  "tasks",
  "training",
  "testing",
  "settings",
  "runs",
  "weights",
  "results",
  "train",
  "seeds",
  "compare",
  "workers",
  "slurm",
  "search_space",
  "search",
  "cli",
)


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
    assert module in PACKAGES, f"{module} has no place: add it here"
    for name in imports(path) - {module}:
      if PACKAGES.index(name) > PACKAGES.index(module):
        wrong.append(f"{path.relative_to(ROOT)} imports {name}")
  assert not wrong, wrong


def test_configurations_import_only_what_recipes_may():
  for path in (ROOT.parent / "configs").glob("*.py"):
    for name in imports(path):
      allowed = ("data", "methods", "settings", "training")
      assert name in allowed, f"{path.name}: {name}"


def test_only_the_settings_know_how_recipes_are_written():
  for path in ROOT.rglob("*.py"):
    # `missing` names every package that may not be installed.
    if path.relative_to(ROOT).parts[0] != "settings" and (
      path != ROOT / "cli" / "missing.py"
    ):
      text = path.read_text()
      for name in ("ConfigDict", "ml_collections"):
        assert name not in text, f"{path.relative_to(ROOT)}: {name}"


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
  """Lines of a function without its docstring."""
  lines = function.end_lineno - function.lineno + 1
  if ast.get_docstring(function) is not None:
    lines -= function.body[0].end_lineno - function.body[0].lineno + 1
  return lines


def test_modules_and_functions_stay_short():
  for path in ROOT.rglob("*.py"):
    text, name = path.read_text(), path.relative_to(ROOT)
    assert len(text.splitlines()) <= 300, f"{name} has over 300 lines"
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        # The training loop is to be read in one piece.
        most = 80 if (str(name), node.name) == ("train.py", "train") else 60
        assert length(node) <= most, f"{name}: {node.name} is over {most} lines"
  main = (ROOT / "__main__.py").read_text()
  assert len(main.splitlines()) <= 60, "__main__.py only finds the commands"
