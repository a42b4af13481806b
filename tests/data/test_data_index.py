"""Indexes of folders: the same data without a listing, never a stale one."""

import json
import os
import shutil

import jax
import numpy as np
from PIL import Image
import pytest

from okd_jax import __main__, data
from okd_jax.data.formats import finder, index, walk
from okd_jax.errors import DataError
from okd_jax.runs import same_data

NAMES = ("cat", "dog")


def draw(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(value).integers(0, 256, (8, 8, 3), np.uint8)
  Image.fromarray(pixels).save(path)  # BMP: of one size, whatever is in it


def command(*args):
  __main__.main(["data", *map(str, args)])


def refusal(capsys, *args):
  """What a command says that is refused."""
  with pytest.raises(SystemExit) as ended:
    command(*args)
  assert ended.value.code in (2, 3)
  return capsys.readouterr().err


@pytest.fixture
def root(tmp_path):
  for place, name in enumerate(NAMES):
    for i in range(6):
      draw(tmp_path / "set" / name / f"{i}.bmp", 100 * place + i)
  draw(tmp_path / "set" / "cat" / "deep" / "größe?.bmp", 9)
  draw(tmp_path / "set" / "cat-b.bmp", 8)
  (tmp_path / "set" / "dog" / "notes.txt").write_text("not a picture")
  (tmp_path / "set" / "dog" / ".hidden").touch()
  return tmp_path / "set"


@pytest.fixture
def indexed(root, capsys):
  command(root, "--index")
  assert str(root / walk.INDEX) in capsys.readouterr().out
  return root


def make(root, source="memory"):
  return data.make(
    {"name": f"folder:{root}", "source": source, "image_size": 8},
    batch_size=4,
    eval_batch_size=4,
    seed=0,
  )


def nothing_is_listed(monkeypatch):
  def refused(*args):
    raise AssertionError("a folder was listed")

  monkeypatch.setattr(walk, "look", refused)


def test_an_index_changes_nothing_and_saves_the_listing(root, monkeypatch):
  before, found = make(root), finder.find(str(root))
  command(root, "--index")
  nothing_is_listed(monkeypatch)
  after, again = make(root), finder.find(str(root))
  assert again.splits == found.splits
  assert again.left_out == found.left_out
  assert after.files == before.files
  assert after.notes[1:] == before.notes and walk.INDEX in after.notes[0]
  for name in ("train", "test"):
    np.testing.assert_array_equal(after.positions[name], before.positions[name])
  jax.tree.map(
    np.testing.assert_array_equal,
    next(after.batches(0)),
    next(before.batches(0)),
  )


def test_what_people_do_beside_is_nothing(indexed, monkeypatch):
  (indexed / "dog" / ".hidden").unlink()
  assert len(make(indexed).files) == 13


def test_a_folder_may_be_copied_with_its_index(indexed, tmp_path):
  here = make(indexed)
  shutil.copytree(indexed, tmp_path / "copy", copy_function=shutil.copy)
  assert make(tmp_path / "copy").files == here.files


@pytest.mark.parametrize(
  "harm, message",
  [
    (lambda root: draw(root / "dog" / "new.bmp", 5), "1 added .dog/new.bmp"),
    (lambda root: draw(root / "owl" / "0.bmp", 5), "1 added .owl/0.bmp"),
    (lambda root: (root / "cat" / "0.bmp").unlink(), "1 removed .cat/0.bmp"),
    (lambda root: shutil.rmtree(root / "dog"), "6 removed .*and 3 more"),
    (
      lambda root: draw(root / "cat" / "3.bmp", 77),
      "3.bmp has another content",
    ),
  ],
)
def test_a_stale_index_is_refused(indexed, harm, message):
  harm(indexed)
  with pytest.raises(DataError, match=f"{message}.*--index") as refused:
    make(indexed)
  assert str(indexed / walk.INDEX) in str(refused.value)


def test_a_stream_notices_what_it_reads(indexed):
  made = make(indexed, "stream")
  draw(indexed / "cat" / "3.bmp", 77)
  with pytest.raises(DataError, match="3.bmp has another content.*--index"):
    for step, _ in zip(range(4), made.batches(0), strict=False):
      assert step < 3


def test_a_damaged_index_is_refused(indexed):
  path = indexed / walk.INDEX
  content = path.read_bytes()
  for harmed in (content[:-9], content[:90] + b"x" + content[91:], b""):
    path.write_bytes(harmed)
    with pytest.raises(DataError, match="is damaged.*Write it again: python"):
      make(indexed)
  # The command does not need the old one.
  command(indexed, "--index")
  assert path.read_bytes() == content
  path.unlink()
  assert walk.INDEX not in str(make(indexed).notes)


def test_damaged_pictures_get_no_index(root, capsys):
  (root / "cat" / "0.bmp").write_bytes(b"BM no picture")
  assert "are damaged; replace" in refusal(capsys, root, "--index")
  assert not (root / walk.INDEX).exists()


def test_a_folder_that_cannot_be_written_is_named(root, monkeypatch, capsys):
  # Those who may write everything run tests, too.
  monkeypatch.setattr(index.os, "access", lambda path, how: False)
  said = refusal(capsys, root, "--index")
  assert "cannot be written" in said and "go on without an index" in said


def test_keypoints_have_no_index(tmp_path, capsys):
  said = refusal(capsys, f"keypoints:{tmp_path}", "--index")
  assert "--index is for folders of pictures" in said


def test_a_run_may_begin_without_and_go_on_with_it(root, tmp_path):
  """A stream knows no sums unless an index says them."""
  made = make(root, "stream")
  assert json.loads(made.files[0])[2] is None
  same_data.remember(tmp_path, made)
  command(root, "--index")
  later = make(root, "stream")
  assert json.loads(later.files[0])[2] == json.loads(make(root).files[0])[2]
  same_data.require(tmp_path, made.info, later)
  same_data.remember(tmp_path, later)
  same_data.require(tmp_path, made.info, made)
  os.unlink(root / walk.INDEX)
  draw(root / "cat" / "3.bmp", 77)
  with pytest.raises(DataError, match="1 changed .cat/3.bmp"):
    same_data.require(tmp_path, made.info, make(root))
