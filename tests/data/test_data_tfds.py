"""TensorFlow Datasets: real preparation, both publisher, missing data.

Fashion-MNIST is prepared once, by its real builder, into a cache that later
runs of the tests use again.
"""

from concurrent import futures
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap
import time

import filelock
import jax
import numpy as np
from PIL import Image
from prepared_copies import write_copy
import pytest

from okd_jax import data
from okd_jax.data.formats import (
  prepare,
  publisher,
  shards,
  tfds as prepared,
  tfrecord as records,
)
from okd_jax.data.sources import tfdata as tfds
from okd_jax.errors import DataError

pytestmark = pytest.mark.long

DEBIAN = pathlib.Path("/usr/share/datasets/fashion-mnist")
CACHE = pathlib.Path(
  os.environ.get("OKD_JAX_TEST_CACHE", "~/.cache/okd_jax/tests")
).expanduser()


@pytest.fixture(scope="module")
def fashion_mnist():
  """The folder that holds a prepared copy of Fashion-MNIST."""
  files = publisher.find("fashion_mnist", DEBIAN)
  assert files, (
    f"the files of Fashion-MNIST are not in {DEBIAN}; install Debian's package "
    "dataset-fashion-mnist"
  )
  prepare.prepare("fashion_mnist", CACHE, files, download=False)
  return CACHE


def make(folder, source, name="fashion_mnist", **config):
  return data.make(
    {"name": name, "source": source, "dir": str(folder), **config},
    batch_size=256,
    eval_batch_size=1000,
    seed=2,
  )


def by_contents(split):
  """Examples as bytes, sorted, since copies order them in their own way."""
  examples = zip(split.images, split.labels, strict=True)
  return sorted(image.tobytes() + bytes([label]) for image, label in examples)


@pytest.fixture(scope="module")
def decoded(fashion_mnist):
  """What both readers make of the copy, by reader."""
  copy = prepared.inspect(prepared.find("fashion_mnist", fashion_mnist))
  return {
    reader: reader.read("fashion_mnist", copy, 32, 0.2)
    for reader in (prepared, tfds)
  }


def test_prepared_copy_holds_the_publishers_examples(decoded):
  expected = publisher.read(
    "fashion_mnist", publisher.find("fashion_mnist", DEBIAN)
  )
  with_numpy, with_tensorflow = decoded.values()
  assert with_numpy.info == expected.info
  assert by_contents(with_numpy.train) == by_contents(expected.train)
  assert by_contents(with_numpy.test) == by_contents(expected.test)
  assert with_tensorflow.info == expected.info
  jax.tree.map(
    np.testing.assert_array_equal,
    [vars(with_tensorflow.train), vars(with_tensorflow.test)],
    [vars(with_numpy.train), vars(with_numpy.test)],
  )


def test_both_sources_give_the_same_batches(
  fashion_mnist, decoded, monkeypatch
):
  for reader, found in decoded.items():
    monkeypatch.setattr(reader, "read", lambda *_, found=found, **__: found)
  config = {"train_examples": 2500, "validation": 0.05}
  memory = make(fashion_mnist, "memory", **config)
  streamed = make(fashion_mnist, "tfds", **config)
  assert memory.info == streamed.info
  assert memory.train_size == streamed.train_size == 2500
  first, second = memory.batches(8), streamed.batches(8)
  for _ in range(3):
    jax.tree.map(np.testing.assert_array_equal, next(first), next(second))
  for split in ("test", "validation"):
    pairs = zip(
      memory.evaluation(split), streamed.evaluation(split), strict=True
    )
    for one, other in pairs:
      jax.tree.map(np.testing.assert_array_equal, one, other)


def test_publishers_files_serve_memory_without_tfds(tmp_path):
  made = make(tmp_path, "memory", train_examples=100)
  assert (made.info.num_train, made.train_size) == (60_000, 100)
  assert not list(tmp_path.iterdir())


def encode(image, image_format):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, image_format)
  return buffer.getvalue()


def animals(count, size=None):
  generator = np.random.default_rng(0)
  images = []
  for i in range(count):
    height, width = size or (20 + i, 30 - i)
    images.append(
      generator.integers(0, 256, (height, width, 3)).astype(np.uint8)
    )
  return images, [i % 3 for i in range(count)]


def test_any_other_name_with_images_of_one_size(tmp_path):
  images, labels = animals(12, (10, 14))
  write_copy(
    tmp_path / "animals" / "1.0.0",
    [encode(image, "png") for image in images],
    labels,
    shape=(10, 14, 3),
    splits=("train", "validation"),
  )
  for source in ("memory", "tfds"):
    made = make(tmp_path, source, "animals")
    assert made.info.image_shape == (10, 14, 3)
    assert made.info.class_names == ("cat", "dog", "owl")
    assert (made.info.num_train, made.info.num_test) == (12, 12)
    np.testing.assert_allclose(
      made.info.mean, np.mean(np.stack(images) / 255, (0, 1, 2)), rtol=1e-6
    )
    (tested,) = [jax.device_get(b) for b in made.evaluation("test")]
    np.testing.assert_array_equal(tested.image[tested.mask], np.stack(images))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_of_a_copy_is_left_out(tmp_path, mode):
  images, labels = animals(4, (10, 14))
  pictures = [np.asarray(Image.fromarray(i).convert(mode)) for i in images]
  write_copy(
    tmp_path / "animals" / "1.0.0",
    [encode(picture, "png") for picture in pictures],
    labels,
    shape=pictures[0].shape,
    splits=("train", "validation"),
  )
  for source in ("memory", "tfds"):
    made = make(tmp_path, source, "animals")
    assert made.info.image_shape == (10, 14, 3)
    (tested,) = [jax.device_get(b) for b in made.evaluation("test")]
    expected = [
      np.asarray(Image.fromarray(i).convert(mode).convert("RGB"))
      for i in images
    ]
    np.testing.assert_array_equal(tested.image[tested.mask], expected)


def test_any_other_name_with_images_of_many_sizes(tmp_path):
  images, labels = animals(12)
  write_copy(
    tmp_path / "animals" / "big" / "1.0.0",
    [encode(image, "png") for image in images],
    labels,
    shape=(-1, -1, 3),
  )
  root = tmp_path / "animals" / "big" / "1.0.0"
  for file in root.glob("big-*"):  # the name is that of the data set
    file.rename(root / file.name.replace("big", "animals", 1))
  about = json.loads((root / "dataset_info.json").read_text())
  about |= {"name": "animals", "configName": "big"}
  (root / "dataset_info.json").write_text(json.dumps(about))
  copy = prepared.inspect(prepared.find("animals", tmp_path))
  assert copy.image_shape == (None, None, 3)
  numpy = prepared.read("animals/big", copy, 16, 0.25)
  tensorflow = tfds.read("animals/big", copy, 16, 0.25)
  # Counts of the held-out quarter: one of each class of four.
  np.testing.assert_array_equal(np.bincount(numpy.test.labels), [1, 1, 1])
  for one, other in (
    (numpy.train, tensorflow.train),
    (numpy.test, tensorflow.test),
  ):
    np.testing.assert_array_equal(one.labels, other.labels)
    difference = one.images.astype(int) - other.images
    assert np.abs(difference).max() <= 2  # two resamplers round differently
  small = root.parent.parent / "small"
  shutil.copytree(root.parent, small)
  with pytest.raises(DataError, match="configurations big, small"):
    prepared.find("animals", tmp_path)


def test_newest_version_is_found(tmp_path):
  for version in ("1.0.0", "3.0.9", "3.0.10", "incomplete.4.0.0"):
    (tmp_path / "animals" / version).mkdir(parents=True)
    (tmp_path / "animals" / version / "dataset_info.json").touch()
  assert prepared.find("animals", tmp_path).name == "3.0.10"
  assert prepared.find("plants", tmp_path) is None


def test_records_hold_what_tensorflow_wrote():
  prepare.import_tfds()
  import tensorflow as tf

  numbers = [0, 1, 127, 128, 300, 2**62, -1]
  feature = {
    "a": tf.train.Feature(int64_list=tf.train.Int64List(value=numbers)),
    "b": tf.train.Feature(
      bytes_list=tf.train.BytesList(value=[b"", b"x" * 200])
    ),
    "none": tf.train.Feature(),
  }
  message = tf.train.Example(features=tf.train.Features(feature=feature))
  found = records.parse_example(message.SerializeToString())
  assert found == {"a": numbers, "b": [b"", b"x" * 200]}


def truncate(path):
  path.write_bytes(path.read_bytes()[:-40])


def flip_image(path):
  contents = bytearray(path.read_bytes())
  contents[contents.index(b"IHDR") + 6] ^= 255
  path.write_bytes(bytes(contents))


def flip_label(path):
  contents = bytearray(path.read_bytes())
  # Behind its name: two numbers each of the feature, its list and the values.
  contents[contents.index(b"label") + len(b"label") + 6] ^= 1
  path.write_bytes(bytes(contents))


def flip_length(path):
  contents = bytearray(path.read_bytes())
  contents[0] ^= 1
  path.write_bytes(bytes(contents))


@pytest.mark.parametrize("source", ["memory", "tfds"])
@pytest.mark.parametrize(
  "harm",
  [truncate, flip_image, flip_label, flip_length, pathlib.Path.unlink],
)
@pytest.mark.checklist("H1")
def test_damaged_records_are_named(tmp_path, source, harm):
  images, labels = animals(12, (8, 8))
  root = tmp_path / "animals" / "1.0.0"
  write_copy(root, [encode(i, "png") for i in images], labels, shape=(8, 8, 3))
  harm(root / "animals-train.tfrecord-00000-of-00001")
  with pytest.raises(DataError, match=str(root)):
    make(tmp_path, source, "animals")


@pytest.mark.parametrize("harm", [flip_image, flip_label, flip_length])
def test_damaged_records_get_no_index(tmp_path, harm):
  images, labels = animals(12, (8, 8))
  root = tmp_path / "animals" / "1.0.0"
  write_copy(root, [encode(i, "png") for i in images], labels, shape=(8, 8, 3))
  copy = prepared.inspect(root)
  shards.write_index(copy).unlink()
  harm(root / "animals-train.tfrecord-00000-of-00001")
  with pytest.raises(DataError, match=r"is damaged .*checksum is wrong"):
    shards.write_index(copy)


@pytest.mark.parametrize("source", ["memory", "tfds", "stream"])
def test_labels_that_the_publisher_keeps_are_not_tested_on(tmp_path, source):
  images, labels = animals(12, (8, 8))
  contents = [encode(image, "png") for image in images]
  for splits in (("train", "validation", "test"), ("train", "test")):
    root = tmp_path / str(len(splits)) / "animals" / "1.0.0"
    write_copy(
      root, contents, labels, shape=(8, 8, 3), splits=splits, hidden=["test"]
    )
    made = data.make(
      {"name": "animals", "source": source, "dir": str(root.parents[1])},
      batch_size=4,
      eval_batch_size=12,
      seed=0,
    )
    # Without a validation split a fraction of the training split is for tests.
    expected = (12, 12) if len(splits) == 3 else (10, 2)
    assert (made.info.num_train, made.info.num_test) == expected
    (batch,) = made.evaluation("test")
    assert np.min(batch.target) >= 0


@pytest.mark.parametrize(
  ("file", "old", "new", "message"),
  [
    ("dataset_info.json", "{", "", "is not a prepared copy"),
    ("dataset_info.json", 'tfrecord"', 'riegeli"', "in the format riegeli"),
    ("dataset_info.json", '"train"', '"test"', "train was expected"),
    ("features.json", 'classLabel"', 'text"', "is not a prepared copy"),
    ("features.json", "uint8", "float32", "images of the type float32"),
    ("label.labels.txt", "cat\n", "", "has 2 lines; 3 classes"),
  ],
)
@pytest.mark.checklist("H1")
def test_wrong_metadata_is_named(tmp_path, file, old, new, message):
  images, labels = animals(12, (8, 8))
  root = tmp_path / "animals" / "1.0.0"
  write_copy(root, [encode(i, "png") for i in images], labels, shape=(8, 8, 3))
  path = root / file
  path.write_text(path.read_text().replace(old, new))
  with pytest.raises(DataError, match=message):
    make(tmp_path, "memory", "animals")


@pytest.mark.checklist("H1")
def test_wrong_file_at_hand_is_refused(tmp_path):
  bad = tmp_path / "cifar-10-binary.tar.gz"
  bad.write_bytes(b"not the archive")
  with pytest.raises(DataError, match="SHA-256") as caught:
    prepare.prepare("cifar10", tmp_path, [bad], download=False)
  assert str(bad) in str(caught.value)


# What it waits for is counted, and not what a busy machine adds to that.
OFFLINE = """
  import sys, threading, time
  import socket
  def fail(*args, **kwargs):
    time.sleep({delay})
    raise OSError("no network")
  socket.create_connection = fail
  waits, join = [], threading.Thread.join
  def counted(thread, timeout=None):
    waits.append(timeout)
    join(thread, timeout)
  threading.Thread.join = counted
  from okd_jax.errors import DataError
  from okd_jax import data
  try:
    data.make({config}, batch_size=8, eval_batch_size=8, seed=0)
  except (ValueError, DataError) as error:
    print(type(error).__name__, error)
  assert "tensorflow" not in sys.modules
  assert None not in waits and sum(waits) < 5, waits
"""


def run_offline(config, delay):
  script = textwrap.dedent(OFFLINE).format(config=config, delay=delay)
  done = subprocess.run(
    [sys.executable, "-c", script],
    capture_output=True,
    text=True,
    timeout=200,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.parametrize("delay", [0, 1000])
@pytest.mark.parametrize("source", ["memory", "tfds"])
@pytest.mark.checklist("H2")
def test_missing_data_without_network(tmp_path, source, delay):
  config = {"name": "cifar10", "source": source, "dir": str(tmp_path)}
  said = run_offline(config, delay)
  assert said.startswith("DataError data set 'cifar10' is not prepared")
  for part in ("does not answer", str(tmp_path), "cifar-10-binary.tar.gz"):
    assert part in said
  assert not list(tmp_path.iterdir())


@pytest.mark.checklist("I2")
def test_programs_that_begin_together_prepare_once(
  fashion_mnist, tmp_path, caplog
):
  lock = filelock.FileLock(tmp_path / "fashion_mnist.lock")
  files = publisher.find("fashion_mnist", DEBIAN)
  with futures.ThreadPoolExecutor() as pool:
    with lock:
      waiting = pool.submit(
        prepare.prepare, "fashion_mnist", tmp_path, files, download=False
      )
      while "another program that prepares" not in caplog.text:
        assert not waiting.done(), waiting.result()
        time.sleep(0.02)
      name = "fashion_mnist/3.0.1"
      made = shutil.copytree(fashion_mnist / name, tmp_path / name)
      before = made.stat().st_mtime_ns
    assert waiting.result() == made
  assert made.stat().st_mtime_ns == before
  assert not (tmp_path / "downloads").exists()


@pytest.mark.checklist("H2")
def test_missing_data_without_leave_to_download(tmp_path):
  config = {"name": "cats_vs_dogs", "dir": str(tmp_path), "download": False}
  said = run_offline(config, 1000)
  assert said.startswith("DataError data set 'cats_vs_dogs'")
  assert "config.data.download is False" in said
  assert "Set it to True, or put it there" in said
  assert "network" not in said


def test_unknown_name_is_refused_before_tensorflow_is_imported(tmp_path):
  said = run_offline({"name": "cifar_100", "dir": str(tmp_path)}, 1000)
  assert said.startswith("ConfigError config.data.name='cifar_100' is unknown")
  assert "did you mean 'cifar100'" in said


def test_memory_never_imports_tensorflow():
  script = """
    import sys
    from okd_jax import data
    data.make({"name": "fashion_mnist", "dir": "/nowhere"},
              batch_size=8, eval_batch_size=8, seed=0)
    assert not {"tensorflow", "tensorflow_datasets"} & set(sys.modules)
  """
  subprocess.run(
    [sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60
  )


@pytest.mark.checklist("A1")
@pytest.mark.parametrize("source", ["tfds", "stream"])
def test_nothing_tunes_a_pipeline(tmp_path, monkeypatch, source):
  # The thread that does can keep a run from stopping for a minute.
  prepare.import_tfds()
  import tensorflow as tf

  tuned = []
  begin = tf.data.Dataset.as_numpy_iterator

  def remember(dataset):
    tuned.append(dataset.options().autotune.enabled)
    return begin(dataset)

  monkeypatch.setattr(tf.data.Dataset, "as_numpy_iterator", remember)
  images, labels = animals(12, (20, 20))
  write_copy(
    tmp_path / "animals" / "1.0.0",
    [encode(image, "png") for image in images],
    labels,
    shape=(20, 20, 3),
    splits=("train", "test"),
  )
  made = make(tmp_path, source, "animals", image_size=20)
  next(made.batches(0))
  next(made.evaluation("test"))
  # Decoding the splits, if the source does, training and evaluation.
  assert tuned == [False] * (4 if source == "tfds" else 2)
