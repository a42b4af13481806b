"""Files that are whole or not there, and what lies beside them."""

import os
import pathlib
import stat
import subprocess
import sys
import time

import pytest

from okd_jax.storage import files
from okd_jax.storage.lock import RunLock


def everything(folder):
  return {p.relative_to(folder).as_posix() for p in folder.rglob("*")}


@pytest.fixture
def people(tmp_path):
  """What people may have called their own."""
  for name in ("net.old", "net.tmp", "net.deleted"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "theirs").write_text("precious")
  for name in ("page.tmp", "page.1.tmp"):
    (tmp_path / name).write_text("precious")
  return everything(tmp_path)


def test_nothing_beside_is_touched(people, tmp_path):
  for content in ("first", "second"):
    files.write(tmp_path / "page", content)
    with files.replacing(tmp_path / "net", "card") as filled:
      (filled / "card").write_text(content)
    assert (tmp_path / "page").read_text() == content
    assert (tmp_path / "net" / "card").read_text() == content
    assert everything(tmp_path) == people | {"page", "net", "net/card"}
  files.remove_folder(tmp_path / "net")
  assert everything(tmp_path) == people | {"page"}


def test_what_fails_leaves_what_was_there(tmp_path):
  (tmp_path / "page").mkdir()
  with pytest.raises(IsADirectoryError):
    files.write(tmp_path / "page", "text")
  (tmp_path / "net").mkdir()
  with (
    pytest.raises(RuntimeError),
    files.replacing(tmp_path / "net", "card") as filled,
  ):
    (filled / "card").write_text("half")
    raise RuntimeError
  assert everything(tmp_path) == {"page", "net"}


def test_a_folder_that_is_not_replaced_stays(tmp_path, monkeypatch):
  rename = pathlib.Path.rename

  def interrupted(path, to):
    if path.name == "new":
      raise KeyboardInterrupt
    return rename(path, to)

  (tmp_path / "net").mkdir()
  (tmp_path / "net" / "card").write_text("old")
  monkeypatch.setattr(pathlib.Path, "rename", interrupted)
  with (
    pytest.raises(KeyboardInterrupt),
    files.replacing(tmp_path / "net", "card"),
  ):
    pass
  assert (tmp_path / "net" / "card").read_text() == "old"
  assert everything(tmp_path) == {"net", "net/card"}


def test_others_may_read_what_is_written(tmp_path):
  with files.replacing(tmp_path / "net", "card"):
    pass
  (tmp_path / "mine").mkdir()
  modes = [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("net", "mine")]
  assert modes[0] == modes[1]


@pytest.mark.parametrize("ending", ["tmp", "deleted"])
def test_a_lock_sweeps_what_killed_writes_left_long_ago(tmp_path, ending):
  names = [f".okd_jax_{name}.{ending}" for name in ("file", "young", "folder")]
  names += [".okd_jax_index", f"mine.{ending}"]
  for name in names:
    (tmp_path / name).write_text("")
  (tmp_path / names[2]).unlink()
  (tmp_path / names[2] / "new").mkdir(parents=True)
  for name in names:
    if "young" not in name:
      os.utime(tmp_path / name, (time.time() - 90_000,) * 2)
  with RunLock(tmp_path):
    left = {path.name for path in tmp_path.iterdir()}
  assert left - {"run.lock", "run.lock.json"} == {names[1], *names[3:]}


# On a machine whose own encoding is ASCII.
ELSEWHERE = r"""
import pathlib, sys
from okd_jax.storage import files
path = pathlib.Path(sys.argv[1])
files.write(path, "caf\u00e9 \udcff")
print(ascii(files.text(path)))
"""


def test_text_does_not_depend_on_the_language_of_a_machine(tmp_path):
  path = tmp_path / "names.txt"
  language = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
  said = subprocess.run(
    [sys.executable, "-c", ELSEWHERE, str(path)],
    env=os.environ | language,
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  ).stdout
  assert said == r"'caf\xe9 \\udcff'" + "\n"
  assert path.read_text(encoding="utf-8") == "caf\u00e9 \\udcff"
