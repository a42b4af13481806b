"""Folders of images of several kinds, sizes and states."""

import errno
import json
import os
from pathlib import Path
import re
import shutil

import jax
import numpy as np
from PIL import Image
import pytest

from okd_jax import __main__, data
from okd_jax.data.formats import finder, folder, walk
from okd_jax.errors import ConfigError, DataError

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def save(path, colour, size=(20, 12), mode="RGB"):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new("RGB", size, colour).convert(mode).save(path)


def write_classes(root, count):
  for name, colour in COLOURS.items():
    for i in range(count):
      save(root / name / f"{i:02d}.png", colour, size=(20 + i, 12))


def make(path, source="tfds", **config):
  return data.make(
    {"name": f"folder:{path}", "source": source, "image_size": 16, **config},
    batch_size=4,
    eval_batch_size=4,
    seed=0,
  )


@pytest.mark.parametrize("source", ["tfds", "memory"])
@pytest.mark.parametrize("test_name", ["test", "val", "Validation"])
def test_train_and_test_folders(tmp_path, source, test_name):
  write_classes(tmp_path / "train", 4)
  write_classes(tmp_path / test_name, 2)
  made = make(tmp_path, source)
  assert made.info.class_names == ("blue", "green", "red")
  assert (made.info.num_train, made.info.num_test) == (12, 6)
  assert made.info.image_shape == (16, 16, 3)
  np.testing.assert_allclose(made.info.mean, [1 / 3] * 3)
  batch = jax.device_get(next(made.batches(0)))
  for image, label in zip(batch.image, batch.target, strict=True):
    expected = list(COLOURS.values())[label]
    np.testing.assert_array_equal(image, np.broadcast_to(expected, image.shape))
  tested = [jax.device_get(b) for b in made.evaluation("test")]
  labels = np.concatenate([b.target[b.mask] for b in tested])
  np.testing.assert_array_equal(labels, [0, 0, 1, 1, 2, 2])


def test_one_folder_is_divided_by_class(tmp_path):
  write_classes(tmp_path, 10)
  found = folder.read(str(tmp_path), 8, 0.2)
  np.testing.assert_array_equal(np.bincount(found.train.labels), [8] * 3)
  np.testing.assert_array_equal(np.bincount(found.test.labels), [2] * 3)
  again = folder.read(str(tmp_path), 8, 0.2)
  np.testing.assert_array_equal(found.test.images, again.test.images)


@pytest.mark.parametrize(
  ("mode", "suffix"),
  [
    ("L", "png"),
    ("RGBA", "png"),
    ("P", "gif"),
    ("1", "bmp"),
    ("CMYK", "jpg"),
    ("LA", "png"),
  ],
)
@pytest.mark.checklist("H1")
def test_every_mode_becomes_rgb(tmp_path, mode, suffix):
  write_classes(tmp_path, 2)
  save(tmp_path / "grey" / f"a.{suffix}", (255, 255, 255), mode=mode)
  save(tmp_path / "grey" / f"b.{suffix}", (255, 255, 255), mode=mode)
  found = folder.read(str(tmp_path), 8, 0.5)
  grey = found.train.images[found.train.labels == 2]
  np.testing.assert_array_equal(grey, np.full((1, 8, 8, 3), 255))


def test_resize_is_pillows(tmp_path):
  write_classes(tmp_path, 2)
  pixels = np.random.default_rng(0).integers(0, 256, (30, 41, 3))
  image = Image.fromarray(pixels.astype(np.uint8))
  for name in ("a", "b"):
    (tmp_path / "noise").mkdir(exist_ok=True)
    image.save(tmp_path / "noise" / f"{name}.png")
  found = folder.read(str(tmp_path), 16, 0.5)
  expected = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR))
  (noise,) = found.train.images[found.train.labels == 2]
  np.testing.assert_array_equal(noise, expected)


@pytest.mark.parametrize("kept", [0, 20, -30])
@pytest.mark.checklist("H1")
def test_damaged_file_is_named(tmp_path, kept):
  write_classes(tmp_path, 3)
  noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3))
  path = tmp_path / "green" / "broken.jpg"
  Image.fromarray(noise.astype(np.uint8)).save(path)
  path.write_bytes(path.read_bytes()[:kept])
  with pytest.raises(DataError, match="broken.jpg cannot be decoded"):
    make(tmp_path)
  report = folder.check_folder(str(tmp_path))
  assert list(report.damaged) == [path]


@pytest.mark.checklist("H1")
def test_wrong_structure_is_refused(tmp_path):
  with pytest.raises(DataError, match="is not a folder"):
    make(tmp_path / "missing")
  with pytest.raises(DataError, match="no class folders; .* Add pictures"):
    make(tmp_path)
  for name in ("a", "b", "c"):
    save(tmp_path / f"{name}.png", (255, 0, 0))
  flat = "no class folders but 3 pictures; .* of each class into a folder"
  with pytest.raises(DataError, match=rf"{flat} .*{tmp_path}/CLASS"):
    make(tmp_path)
  save(tmp_path / "images" / "a.png", (255, 0, 0))
  one = "1 class folder but 3 pictures; .* of each class into a folder"
  with pytest.raises(DataError, match=one):
    make(tmp_path)
  save(tmp_path / "images" / "red" / "a.png", (255, 0, 0))
  (tmp_path / "images" / "a.png").unlink()
  inside = f"set config.data.name=folder:{tmp_path}/images"
  with pytest.raises(DataError, match=inside):
    make(tmp_path)
  shutil.rmtree(tmp_path / "images")
  write_classes(tmp_path, 2)
  (tmp_path / "yellow").mkdir()
  # Pictures that stray beside classes are not what is wrong.
  with pytest.raises(DataError, match="no images in yellow; .* Add pictures"):
    make(tmp_path)


@pytest.mark.checklist("H1")
def test_splits_must_have_the_same_classes(tmp_path):
  write_classes(tmp_path / "train", 2)
  write_classes(tmp_path / "test", 2)
  save(tmp_path / "test" / "yellow" / "a.png", (255, 255, 0))
  with pytest.raises(DataError, match="classes yellow in one split"):
    make(tmp_path)
  with pytest.raises(DataError, match="classes yellow in one split"):
    folder.check_folder(str(tmp_path))


@pytest.mark.checklist("H1")
def test_a_test_folder_that_lacks_classes_is_told_which(tmp_path):
  write_classes(tmp_path / "train", 2)
  save(tmp_path / "test" / "red" / "a.png", (255, 0, 0))
  with pytest.raises(DataError, match="classes blue, green in one split only"):
    make(tmp_path)


def test_classes_without_a_test_picture_are_named(tmp_path, capsys):
  write_classes(tmp_path, 10)
  # Two of each, too few for a fifth of every class.
  for name in ("café", *"abcdefghi"):
    for i in range(2):
      save(tmp_path / name / f"{i}.png", (255, 0, 0))
  (note,) = make(tmp_path).notes
  assert note == (
    "classes without a test picture: 6 (d, e, f, g, h and 1 more)"
  )
  __main__.main(["data", str(tmp_path), "--json"])
  assert json.loads(capsys.readouterr().out)["notes"] == [note]
  assert not make(tmp_path, test_fraction=0.0).notes


def test_pictures_beside_a_table_are_sorted_as_the_page_says(
  tmp_path, monkeypatch
):
  page = Path(__file__).parents[2] / "docs" / "data.md"
  (program,) = re.findall(
    r"```python\n(import csv.*?)```", page.read_text(), re.DOTALL
  )
  rows = ["file,label"]
  for i in range(6):
    save(tmp_path / f"{i}" / "same.png", (255, 0, 0))
    rows.append(f"{i}/same.png,{'Katze' if i % 2 else 'größer Hund'}")
  (tmp_path / "labels.csv").write_text("\n".join(rows), encoding="utf-8")
  monkeypatch.chdir(tmp_path)
  exec(program, {})
  made = make(tmp_path / "sorted")
  assert made.info.class_names == ("Katze", "größer Hund")
  assert made.info.num_train + made.info.num_test == 6


def test_too_large_for_memory_is_refused(tmp_path):
  write_classes(tmp_path, 2)
  with pytest.raises(DataError, match="image_size"):
    make(tmp_path, image_size=20_000)


def test_report(tmp_path):
  write_classes(tmp_path / "train", 2)
  write_classes(tmp_path / "test", 1)
  report = folder.check_folder(str(tmp_path))
  assert report.counts == {
    "train": {"blue": 2, "green": 2, "red": 2},
    "test": {"blue": 1, "green": 1, "red": 1},
  }
  assert report.sizes == {(20, 12): 6, (21, 12): 3}
  assert report.damaged == {}
  # The test images are copies of training images.
  assert report.across == report.duplicates
  assert report.duplicates == tuple(
    (tmp_path / "train" / c / "00.png", tmp_path / "test" / c / "00.png")
    for c in COLOURS
  )


def labels_of(made, split):
  batches = [jax.device_get(batch) for batch in made.evaluation(split)]
  return np.concatenate([batch.target[batch.mask] for batch in batches])


@pytest.mark.parametrize("source", ["memory", "tfds", "stream"])
@pytest.mark.parametrize(
  "names",
  [
    ("train", "val", "test"),
    ("Train", "VALID", "Test"),
    pytest.param(("training", "validation", "testing"), marks=pytest.mark.long),
    pytest.param(("train_set", "dev", "Test-Data"), marks=pytest.mark.long),
    pytest.param(("train2017", "val2017", "test2017"), marks=pytest.mark.long),
  ],
)
def test_validation_folders_are_for_validation(tmp_path, names, source):
  for name, count in zip(names, (4, 2, 1), strict=True):
    write_classes(tmp_path / name, count)
  made = make(tmp_path, source)
  assert {split: len(rows) for split, rows in made.positions.items()} == {
    "train": 12,
    "validation": 6,
    "held_out": 0,
    "test": 3,
  }
  assert (made.info.num_train, made.info.num_test) == (12, 3)
  np.testing.assert_array_equal(
    labels_of(made, "validation"), [0, 0, 1, 1, 2, 2]
  )
  np.testing.assert_array_equal(labels_of(made, "test"), [0, 1, 2])
  assert set(made.order(0)) | set(made.order(1)) <= set(range(12))
  (batch, *_) = made.evaluation("validation")
  colours = np.array(list(COLOURS.values()))[batch.target]
  np.testing.assert_array_equal(batch.image[:, 8, 8], colours)


@pytest.mark.parametrize("source", ["memory", "stream"])
@pytest.mark.parametrize("folders", [("train", "val", "test"), ("",)])
def test_every_image_has_the_name_of_its_file(tmp_path, folders, source):
  """Each picture has a grey of its own."""
  greys = iter(range(10, 250, 3))
  for split in folders:
    for name in ("a", "b"):
      for i in range(10):
        grey = next(greys)
        save(tmp_path / split / name / f"{i}.png", (grey,) * 3, (16, 16))
  share = 0.0 if "val" in folders else 0.2
  made = make(tmp_path, source, validation=share)
  seen = set()
  for split in ("validation", "test"):
    names = made.names_in(split)
    for batch in map(jax.device_get, made.evaluation(split)):
      for image, index in zip(
        batch.image[batch.mask], batch.index[batch.mask], strict=True
      ):
        seen.add(names[index])
        stored = np.asarray(Image.open(tmp_path / names[index]))
        np.testing.assert_array_equal(image[8, 8], stored[8, 8])
  assert len(seen) == (40 if "val" in folders else 7)
  batch = jax.device_get(next(made.batches(0)))
  for image, index in zip(batch.image, batch.index, strict=True):
    stored = np.asarray(Image.open(tmp_path / made.names_in("train")[index]))
    np.testing.assert_array_equal(image[8, 8], stored[8, 8])


def test_a_fraction_beside_a_validation_folder_is_refused(tmp_path):
  for name in ("train", "val", "test"):
    write_classes(tmp_path / name, 2)
  with pytest.raises(ValueError, match="validation=0.1 must be 0"):
    make(tmp_path, validation=0.1)


def test_a_class_may_be_called_train(tmp_path):
  for name in ("bus", "train", "tram"):
    save(tmp_path / "flat" / name / "a.png", (1, 2, 3))
    save(tmp_path / "nested" / name / "old" / "a.png", (1, 2, 3))
    for split in ("train", "test"):
      save(tmp_path / "splits" / split / name / "a.png", (1, 2, 3))
  for name in ("flat", "nested", "splits"):
    found = finder.find(str(tmp_path / name))
    assert found.class_names == ("bus", "train", "tram")
    assert set(found.splits) == (
      {"train", "test"} if name == "splits" else {"all"}
    )
  assert any("train is taken as a class" in note for note in found.notes) is (
    False
  )
  (note,) = finder.find(str(tmp_path / "flat")).notes
  assert "train is taken as a class" in note


def test_splits_inside_of_classes_are_noted(tmp_path):
  for name in ("cat", "dog"):
    for split in ("train", "test"):
      save(tmp_path / name / split / "a.png", (1, 2, 3))
  found = finder.find(str(tmp_path))
  assert found.splits["all"]["dog"] == ["dog/test/a.png", "dog/train/a.png"]
  (note,) = found.notes
  assert note.startswith("cat/test and 3 more named like a split belong to")


def test_other_folders_beside_splits_are_left_out_and_named(tmp_path):
  for split in ("train", "test"):
    write_classes(tmp_path / split, 2)
  save(tmp_path / "unlabelled" / "a.png", (1, 2, 3))
  found = finder.find(str(tmp_path))
  assert set(found.splits) == {"train", "test"}
  assert found.left_out[finder.STRAY] == (tmp_path / "unlabelled" / "a.png",)
  assert found.notes == (f"left out, {finder.STRAY}: 1 (unlabelled/a.png)",)


def test_files_that_people_have_are_found(tmp_path):
  """Any name that Pillow reads, at any depth, and no others."""
  write_classes(tmp_path, 2)
  jpeg, png = tmp_path / "a.jpg", tmp_path / "red" / "00.png"
  save(jpeg, (255, 0, 0))
  names = ("b.jfif", "c.JPE", "d.JPG", "e", "deep/er/f.jpeg", "g.jpg_large")
  for name in names:
    path = tmp_path / "red" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg.read_bytes())
  hidden = ("._b.jpg", ".DS_Store", "Thumbs.db", "@eaDir/x.jpg", ".x/y.jpg")
  for name in (*hidden, "__MACOSX/red/._a.jpg"):
    path = tmp_path / "red" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png.read_bytes())
  (tmp_path / "__MACOSX").mkdir()
  (tmp_path / "@eaDir").mkdir()
  (tmp_path / "red" / "notes.txt").write_text("not a picture")
  (tmp_path / "red" / "empty").write_bytes(b"")
  found = finder.find(str(tmp_path))
  red = [name.removeprefix("red/") for name in found.splits["all"]["red"]]
  assert red == sorted(["00.png", "01.png", *names])
  assert {why: len(files) for why, files in found.left_out.items()} == {
    walk.HIDDEN: 8,
    walk.FOREIGN: 2,
    finder.STRAY: 1,
  }
  made = make(tmp_path, "memory", test_fraction=0.0)
  assert made.info.num_train == 4 + len(red)
  assert made.notes == found.notes
  assert any("2 (red/empty, red/notes.txt)" in note for note in made.notes)


@pytest.mark.parametrize("name", ["blue", "train/blue", "val"])
def test_a_lost_folder_is_no_smaller_set(tmp_path, name):
  root = tmp_path / "set"
  write_classes(root if name == "blue" else root / "train", 2)
  shutil.rmtree(root / name, ignore_errors=True)
  (root / name).symlink_to(tmp_path / "unmounted")
  with pytest.raises(DataError, match=f"set/{name} is a link to nothing.*Mend"):
    finder.find(str(root))


def test_links_to_themselves_and_to_nothing(tmp_path):
  """Anything else is left out and named; pictures are damaged."""
  write_classes(tmp_path, 2)
  (tmp_path / "red" / "loop").symlink_to(tmp_path / "red" / "loop")
  found = finder.find(str(tmp_path))
  assert found.left_out == {walk.BROKEN: (tmp_path / "red" / "loop",)}
  lost = [tmp_path / "red" / "lost.png", tmp_path / "red" / "loop.png"]
  lost[0].symlink_to(tmp_path / "unmounted.png")
  lost[1].symlink_to(lost[1])
  assert set(folder.check_folder(str(tmp_path)).damaged) == set(lost)
  for source in ("memory", "stream"):
    with pytest.raises(DataError, match="red/lo(op|st).png cannot be"):
      make(tmp_path, source)


def test_links_to_folders_around_them_are_named(tmp_path):
  """Among the classes and in one; they were passed over in silence."""
  write_classes(tmp_path, 2)
  links = (tmp_path / "blue_too", tmp_path / "red" / "up")
  links[0].symlink_to(tmp_path)
  links[1].symlink_to("..")
  found = finder.find(str(tmp_path))
  assert found.left_out == {walk.LOOP: links}
  assert any("(blue_too, red/up)" in note for note in found.notes)
  assert sorted(found.class_names) == ["blue", "green", "red"]


@pytest.mark.checklist("H1")
def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
  write_classes(tmp_path, 1)
  scan = os.scandir

  def closed(path):
    if os.path.basename(path) == "green":
      raise PermissionError(errno.EACCES, "Permission denied", path)
    return scan(path)

  monkeypatch.setattr(os, "scandir", closed)
  with pytest.raises(DataError, match="green cannot be read .Permission"):
    finder.find(str(tmp_path))


def test_pipes_are_not_read(tmp_path):
  """Reading one waits for somebody who writes."""
  write_classes(tmp_path, 2)
  pipes = [tmp_path / "red" / name for name in ("pipe", "pipe.png")]
  for pipe in pipes:
    os.mkfifo(pipe)
  found = finder.find(str(tmp_path))
  assert found.left_out == {walk.FOREIGN: tuple(pipes)}
  assert not folder.check_folder(str(tmp_path)).damaged


def test_advice_destroys_nothing(tmp_path):
  write_classes(tmp_path / "pictures", 2)
  (tmp_path / "__MACOSX").mkdir()
  with pytest.raises(DataError, match="name=folder:.*/pictures") as refused:
    finder.find(str(tmp_path))
  assert "remove" not in str(refused.value)
  (tmp_path / "pictures" / "notes").mkdir()
  with pytest.raises(DataError, match="no images in notes.*move") as refused:
    finder.find(str(tmp_path / "pictures"))
  assert "remove" not in str(refused.value)


def test_two_folders_for_one_split_are_refused(tmp_path):
  for name in ("train", "val", "valid"):
    write_classes(tmp_path / name, 2)
  with pytest.raises(DataError, match="2 folders for validation: val, valid"):
    finder.find(str(tmp_path))
  other = tmp_path / "only"
  for name in ("val", "test"):
    write_classes(other / name, 2)
  with pytest.raises(DataError, match="no folder to train on"):
    finder.find(str(other))


@pytest.mark.parametrize("source", ["memory", "stream"])
def test_a_fraction_of_no_picture_is_refused(tmp_path, source):
  write_classes(tmp_path, 2)
  with pytest.raises(ConfigError, match="test_fraction=0.05 of 6 .* is none"):
    make(tmp_path, source, test_fraction=0.05)
  with pytest.raises(ConfigError, match="validation=0.1 of 5 .* is none"):
    make(tmp_path, source, validation=0.1)


@pytest.mark.parametrize("source", ["memory", "tfds", "stream"])
def test_everything_may_be_trained_on(tmp_path, source):
  write_classes(tmp_path, 2)
  made = make(tmp_path, source, test_fraction=0.0)
  assert (made.info.num_train, made.info.num_test) == (6, 0)
  with pytest.raises(DataError, match="'test' .* is empty"):
    next(made.evaluation("test"))
  assert len(jax.device_get(next(made.batches(0))).index) == 4


def test_mirroring_can_be_forbidden(tmp_path):
  write_classes(tmp_path, 2)
  assert make(tmp_path, "memory").info.flip
  assert not make(tmp_path, "memory", flip=False).info.flip
  assert not make(tmp_path, "stream", flip=False).info.flip
