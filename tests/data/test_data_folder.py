"""Folders of images of several kinds, sizes and states."""

import jax
import numpy as np
from PIL import Image
import pytest

from okd_jax import data
from okd_jax.data.formats import folder
from okd_jax.errors import DataError

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
@pytest.mark.parametrize("test_name", ["test", "val"])
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
  with pytest.raises(DataError, match="0 class folders"):
    make(tmp_path)
  write_classes(tmp_path, 2)
  (tmp_path / "yellow").mkdir()
  with pytest.raises(DataError, match="yellow lack images"):
    make(tmp_path)


@pytest.mark.checklist("H1")
def test_splits_must_have_the_same_classes(tmp_path):
  write_classes(tmp_path / "train", 2)
  write_classes(tmp_path / "test", 2)
  save(tmp_path / "test" / "yellow" / "a.png", (255, 255, 0))
  with pytest.raises(DataError, match="classes yellow in one split"):
    make(tmp_path)


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
  assert [[f.parent.parent.name for f in group] for group in report.duplicates]
  assert report.duplicates == tuple(
    (tmp_path / "train" / c / "00.png", tmp_path / "test" / c / "00.png")
    for c in COLOURS
  )
