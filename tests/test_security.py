"""What comes from outside is data, never a program, and stays in its place."""

import ast
import io
from pathlib import Path
import tarfile

import numpy as np
import pytest

import okd_jax
from okd_jax.data.formats import publisher
from scripts import reliability_table

ROOT = Path(okd_jax.__file__).parents[1]
FILES = sorted(
  path
  for folder in ("okd_jax", "configs", "scripts", "benchmarks")
  for path in (ROOT / folder).rglob("*.py")
) + [ROOT / "main.py"]
# Run what they are given, or write where it says.
NEVER = {
  *("cloudpickle", "dill", "joblib", "marshal", "shelve"),
  *("pickle.load", "pickle.loads", "torch.load", "yaml.load"),
  *("eval", "exec", "os.system", "os.popen"),
}
NEVER_METHODS = {"extractall", "unpack_archive"}
# The only module that asks the network, and only whether a host answers;
# TensorFlow Datasets downloads after that.
MAY_ASK_NETWORK = {"okd_jax/data/formats/prepare.py"}
NETWORK = {"urllib.request", "requests", "http.client", "ftplib", "httpx"}


def dotted(node):
  if isinstance(node, ast.Attribute):
    return f"{dotted(node.value)}.{node.attr}"
  return node.id if isinstance(node, ast.Name) else "()"


def names_used(tree):
  """Imported modules, called functions, and keywords of calls."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from ((alias.name, node) for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      yield node.module, node
      yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)
    elif isinstance(node, ast.Call):
      yield dotted(node.func), node


@pytest.mark.checklist("security")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_from_outside_is_run(path):
  name = path.relative_to(ROOT).as_posix()
  for used, node in names_used(ast.parse(path.read_text())):
    where = f"{name}:{node.lineno}: {used}"
    assert used not in NEVER, where
    assert used.rpartition(".")[2] not in NEVER_METHODS, where
    assert used not in NETWORK or name in MAY_ASK_NETWORK, where
    if isinstance(node, ast.Call):
      for keyword in node.keywords:
        assert keyword.arg not in ("allow_pickle", "shell"), where


@pytest.mark.checklist("security")
def test_the_only_unpickler_knows_no_globals_but_tensors():
  users = [
    path.relative_to(ROOT).as_posix()
    for path in FILES
    for used, node in names_used(ast.parse(path.read_text()))
    if used == "pickle" and isinstance(node, ast.Import)
  ]
  # tests/test_interop.py gives it a file with code in it.
  assert users == ["okd_jax/weights/torch_archive.py"]


@pytest.mark.checklist("security", "H1")
def test_members_of_an_archive_are_never_written(tmp_path):
  inside = tmp_path / "data"
  inside.mkdir()
  record = np.zeros((10, 3073), np.uint8)
  record[:, 0] = np.arange(10)
  batches = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
  members = [f"cifar-10-batches-bin/{name}.bin" for name in batches]
  outside = ["../outside.bin", str(tmp_path / "absolute.bin")]
  with tarfile.open(inside / "cifar-10-binary.tar.gz", "w:gz") as archive:
    link = tarfile.TarInfo(members[0])
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    archive.addfile(link)
    for name in (*outside, *members):
      member = tarfile.TarInfo(name)
      member.size = record.nbytes
      archive.addfile(member, io.BytesIO(record.tobytes()))
  before = sorted(tmp_path.rglob("*"))
  found = publisher.read("cifar10", publisher.find("cifar10", inside))
  assert len(found.train.labels) == 50
  assert sorted(tmp_path.rglob("*")) == before


def test_the_reliability_table_is_that_of_the_tests():
  expected = reliability_table.page()
  assert reliability_table.PAGE.read_text() == expected, (
    "run: python scripts/reliability_table.py"
  )
