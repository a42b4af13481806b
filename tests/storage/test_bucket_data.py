"""Data in a bucket, of a real server on this machine."""

import json
import shutil
import time

import bucket_server
import folder_recipe
import jax
import numpy as np
from PIL import Image
from prepared_copies import write_copy
import pytest

from okd_jax import __main__, data, train
from okd_jax.data.formats import (
  listing,
  shards,
  tfds as prepared,
  walk,
)
from okd_jax.data.sources import stream
from okd_jax.errors import ConfigError, DataError, UnreachableError
from okd_jax.storage import bucket, paths

BUCKET = "gs://okd-data"
ODD = ("größe 大.png", "a#1?*[x] %41+&=.png", "no suffix")


def command(*args):
  __main__.main([str(arg) for arg in args])


def draw(path, value, size=(12, 8)):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(value).integers(0, 256, (*size, 3), np.uint8)
  Image.fromarray(pixels).save(path, "PNG")


@pytest.fixture(scope="module")
def way():
  with bucket_server.serving("okd-data") as way:
    yield way


@pytest.fixture(scope="module")
def pictures(way, tmp_path_factory):
  """A folder here, and the same one in the bucket."""
  root = tmp_path_factory.mktemp("pictures") / "set"
  for place, name in enumerate(("cat", "dog", "owl")):
    for split, count in (("train", 6), ("test", 2)):
      for i in range(count):
        draw(root / split / name / f"{i}.png", 100 * place + i)
  for i, name in enumerate(ODD):
    draw(root / "train" / "cat" / name, 50 + i)
  draw(root / "train" / "dog" / "deep" / "er" / "x.png", 61)
  (root / "train" / "dog" / "notes.txt").write_text("not a picture")
  (root / "train" / "dog" / "empty").touch()
  draw(root / "train" / "@eaDir" / "x.png", 62)
  draw(root / ".hidden" / "y.png", 62)
  way.upload(root, f"{BUCKET}/pictures/set")
  return root, f"{BUCKET}/pictures/set"


def make(name, source, **config):
  return data.make(
    {"name": name, "source": source, "image_size": 8, **config},
    batch_size=4,
    eval_batch_size=4,
    seed=0,
  )


def assert_same(one, other, steps=3):
  """Both give the same examples of training and tests."""
  assert one.info.class_names == other.info.class_names
  assert one.positions.keys() == other.positions.keys()
  trained = zip(range(steps), one.batches(0), other.batches(0), strict=False)
  tested = zip(one.evaluation("test"), other.evaluation("test"), strict=True)
  pairs = [(a, b) for _, a, b in trained] + list(tested)
  assert len(pairs) > steps
  for a, b in pairs:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_folder_is_that_of_a_disk(pictures):
  here, there = (make(f"folder:{place}", "memory") for place in pictures)
  assert_same(here, there)
  assert here.files == there.files
  assert here.notes == there.notes and len(here.notes) == 2
  here, there = (listing.from_folder(str(p), 8, 0.2) for p in pictures)
  assert here.files == there.files
  assert_same_files(here.train, there.train)
  assert_same_files(here.test, there.test)


def test_an_index_takes_the_place_of_the_listing(pictures, way, monkeypatch):
  here, place = pictures[0], f"{BUCKET}/indexed"
  way.upload(here, place)
  command("data", place, "--index")
  monkeypatch.setattr(bucket, "sizes_below", None)
  found = listing.from_folder(place, 8, 0.2)
  assert_same_files(listing.from_folder(str(here), 8, 0.2).train, found.train)
  # What one reads is compared with it.
  changed = paths.anywhere(place) / found.train.names[1]
  changed.write_bytes(changed.read_bytes() + b"0")
  for read in (
    lambda: make(f"folder:{place}", "memory"),
    lambda: found.train.read(1),
  ):
    with pytest.raises(DataError, match="has another content.*--index"):
      read()
  changed.unlink()
  with pytest.raises(DataError, match=" is gone.*Write it again"):
    make(f"folder:{place}", "memory")


def assert_same_files(one, other):
  """Both give the same examples of a split."""
  np.testing.assert_array_equal(one.labels, other.labels)
  rows = range(len(one.labels))
  assert one.read_together(rows) == other.read_together(rows)


@pytest.fixture(scope="module")
def copies(way, tmp_path_factory):
  """Copies as TensorFlow Datasets makes them, here and in the bucket."""
  here = tmp_path_factory.mktemp("copies")
  contents = []
  for i in range(16):
    draw(here / "one.png", i)
    contents.append((here / "one.png").read_bytes())
  (here / "one.png").unlink()
  write_copy(
    here / "animals" / "1.0.0",
    contents,
    [i % 3 for i in range(16)],
    shape=(12, 8, 3),
    splits=("train", "test"),
    shards=3,
  )
  way.upload(here, f"{BUCKET}/copies")
  return here, f"{BUCKET}/copies"


@pytest.mark.parametrize("source", ["memory", "tfds"])
def test_a_copy_is_that_of_a_disk(copies, source):
  here, there = (make("animals", source, dir=str(place)) for place in copies)
  assert_same(here, there)


def test_a_streamed_copy_needs_an_index(copies, tmp_path, capsys):
  here, there = (
    prepared.inspect(prepared.find("animals", paths.anywhere(place)))
    for place in copies
  )
  with pytest.raises(DataError, match="has no index.*data gs://.* --index"):
    make("animals", "stream", dir=copies[1])
  command("data", there.path, "--index")
  assert "16" in capsys.readouterr().out
  expected, found = (
    listing.from_copy("animals", copy, 8, 0.2) for copy in (here, there)
  )
  assert_same_files(expected.train, found.train)
  # The index of a disk is that of the bucket, and may be copied there.
  copied = shutil.copytree(here.path, tmp_path / "animals" / "1.0.0")
  command("data", copied, "--index", "--json")
  assert json.loads(capsys.readouterr().out)["splits"]["train"]["files"] == 3
  written = (there.path / walk.INDEX).read_bytes()
  assert (copied / walk.INDEX).read_bytes() == written
  again = listing.from_copy("animals", prepared.inspect(copied), 8, 0.2)
  assert_same_files(expected.train, again.train)


def loaded(config, monkeypatch, steps, host, hosts):
  """What one of several hosts loads of the batches of some steps."""
  with monkeypatch.context() as patch:
    patch.setattr(
      stream,
      "local_slots",
      lambda mesh, size: np.array_split(np.arange(size), hosts)[host],
    )
    patch.setattr(stream, "to_devices", lambda batch, *where: batch)
    batches = make("animals", "stream", **config).batches(steps[0])
    return [next(batches) for _ in steps]


@pytest.mark.long
def test_hosts_load_their_parts_of_the_same_batches(copies, monkeypatch):
  """Two have begun, and one goes on."""
  command("data", f"{copies[1]}/animals/1.0.0", "--index")
  there, here = {"dir": copies[1]}, {"dir": str(copies[0])}
  first, rest = range(3), range(3, 5)
  begun = [loaded(there, monkeypatch, first, host, 2) for host in range(2)]
  joined = [
    jax.tree.map(lambda *parts: np.concatenate(parts), *parts)
    for parts in zip(*begun, strict=True)
  ]
  assert len(begun[0][0].index) == 2
  later = loaded(there, monkeypatch, rest, 0, 1)
  expected = loaded(here, monkeypatch, range(5), 0, 1)
  jax.tree.map(np.testing.assert_array_equal, joined + later, expected)


@pytest.mark.checklist("H1")
def test_a_stale_index_of_a_copy_is_refused(copies, tmp_path):
  copied = shutil.copytree(copies[0], tmp_path / "copied") / "animals" / "1.0.0"
  command("data", copied, "--index")
  (first, *_) = sorted(copied.glob("*.tfrecord-*"))
  first.write_bytes(first.read_bytes() + b"\0")
  with pytest.raises(DataError, match=f"1 of another size .{first.name}"):
    shards.images(prepared.inspect(copied))
  first.unlink()
  with pytest.raises(DataError, match=f"1 removed .{first.name}"):
    shards.images(prepared.inspect(copied))


def test_publishers_files_are_read_there(way):
  batch = np.random.default_rng(0).integers(0, 256, (10, 3073), np.uint8)
  batch[:, 0] = np.arange(10)
  for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
    path = paths.anywhere(f"{BUCKET}/cifar/cifar-10-batches-bin") / name
    path.write_bytes(batch.tobytes())
  made = make("cifar10", "memory", dir=f"{BUCKET}/cifar")
  assert (made.info.num_train, made.info.num_test) == (50, 10)
  with pytest.raises(DataError, match="copies are prepared on a disk.*gcloud"):
    make("cifar10", "tfds", dir=f"{BUCKET}/cifar")


@pytest.mark.long
def test_a_run_is_trained_and_measured_from_there(pictures, tmp_path, capsys):
  train.train(folder_recipe.configured(pictures[1]), tmp_path)
  capsys.readouterr()
  command("eval", tmp_path, "--json")
  told = json.loads(capsys.readouterr().out)
  assert told["count"] == 6
  for place in (pictures[0], pictures[1]):
    command("eval", tmp_path, f"--data={place}", "--json")
    assert json.loads(capsys.readouterr().out) == told
  with pytest.raises(SystemExit):
    command("eval", tmp_path, f"--data={BUCKET}/nothing")
  assert f"{BUCKET}/nothing is not a folder" in capsys.readouterr().err


@pytest.mark.long
def test_a_busy_server_is_asked_again(pictures, way):
  here, there = (listing.from_folder(str(p), 8, 0.2).train for p in pictures)
  with bucket_server.cut(way, 0.5):
    assert there.read_together(range(9)) == here.read_together(range(9))


@pytest.mark.slow  # the client tries for half a minute
@pytest.mark.parametrize("how", ["busy", "gone"])
def test_a_server_that_stays_away_is_named(pictures, way, how):
  made = make(f"folder:{pictures[1]}", "stream")
  setattr(way, how, True)
  try:
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="okd-data/.*cannot be read"):
      next(made.batches(0))
    assert time.monotonic() - began < 90  # the client is asked once
  finally:
    setattr(way, how, False)


def test_what_is_not_there_is_refused(way):
  with pytest.raises(DataError, match="gs://okd-data/none is not a folder"):
    make(f"folder:{BUCKET}/none", "memory")
  with pytest.raises(DataError, match=f"{BUCKET}/none is not there"):
    make(f"keypoints:{BUCKET}/none", "memory")
  with pytest.raises(DataError, match=f"{BUCKET}/none has no folder annot of"):
    make("mpii", "memory", dir=f"{BUCKET}/none")
  with pytest.raises(DataError, match=f"{BUCKET}: Stickfolk is drawn on"):
    make("stickfolk/easy", "memory", dir=BUCKET)
  with pytest.raises(ConfigError, match="'animels' is unknown"):
    make("animels", "memory", dir=f"{BUCKET}/none")
