"""Readers of the publishers' files, whole and damaged."""

import gzip
import io
import pathlib
import tarfile

import numpy as np
import pytest

from okd_jax.data.formats import publisher
from okd_jax.data.info import KNOWN, measure
from okd_jax.errors import DataError

DEBIAN = pathlib.Path("/usr/share/datasets/fashion-mnist")


def fashion_mnist_files():
  files = publisher.find("fashion_mnist", DEBIAN)
  assert files, (
    f"the files of Fashion-MNIST are not in {DEBIAN}; install Debian's package "
    "dataset-fashion-mnist"
  )
  return files


def idx(array):
  head = bytes([0, 0, 8, array.ndim])
  sizes = np.array(array.shape, ">u4").tobytes()
  return head + sizes + array.astype(np.uint8).tobytes()


def idx_files(folder, images, labels):
  paths = folder / "images.gz", folder / "labels.gz"
  for path, array in zip(paths, (images, labels), strict=True):
    path.write_bytes(gzip.compress(idx(array)))
  return paths


def cifar_examples(name, count, seed=0):
  generator = np.random.default_rng(seed)
  images = generator.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
  return images, np.arange(count) % KNOWN[name].num_classes


def cifar_records(name, images, labels):
  planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
  columns = [labels[:, None].astype(np.uint8), planes]
  if name == "cifar100":
    columns.insert(0, (labels[:, None] // 5).astype(np.uint8))  # coarse label
  return np.concatenate(columns, axis=1).tobytes()


def write_archive(path, members):
  with tarfile.open(path, "w:gz") as archive:
    for name, data in members.items():
      member = tarfile.TarInfo(name)
      member.size = len(data)
      archive.addfile(member, io.BytesIO(data))


def cifar10_members(train, test):
  images, labels = train
  members = {
    f"cifar-10-batches-bin/data_batch_{i + 1}.bin": cifar_records(
      "cifar10", images[i::5], labels[i::5]
    )
    for i in range(5)
  }
  members["cifar-10-batches-bin/test_batch.bin"] = cifar_records(
    "cifar10", *test
  )
  return members


def test_fashion_mnist_is_what_is_known_about_it():
  found = publisher.read("fashion_mnist", fashion_mnist_files())
  info = KNOWN["fashion_mnist"]
  assert found.info == info  # 60,000 and 10,000 examples
  pixels = found.train.images.astype(np.float64) / 255
  np.testing.assert_allclose(pixels.mean(), info.mean[0], atol=5e-5)
  np.testing.assert_allclose(pixels.std(), info.std[0], atol=5e-5)
  np.testing.assert_array_equal(np.bincount(found.train.labels), [6000] * 10)
  np.testing.assert_array_equal(np.bincount(found.test.labels), [1000] * 10)
  # The first training example is an ankle boot, and its last row is black.
  assert info.class_names[found.train.labels[0]] == "Ankle boot"
  assert not found.train.images[0, -1].any()


def test_digits_are_split_by_class():
  found = publisher.digits()
  info = KNOWN["digits"]
  assert found.info == info
  pixels = found.train.images.astype(np.float64) / 255
  np.testing.assert_allclose(pixels.mean(), info.mean[0], atol=5e-5)
  np.testing.assert_allclose(pixels.std(), info.std[0], atol=5e-5)
  counts = np.bincount(found.test.labels)
  assert counts.sum() == 360 and counts.min() >= 34 and counts.max() <= 37
  assert found.train.images.max() == 255


def test_measure_matches_numpy():
  images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3))
  images = images.astype(np.uint8)
  mean, std = measure(images)
  np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
  np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-12)
  assert measure(np.zeros((2, 4, 4, 1), np.uint8))[1] == (1 / 255,)


def test_cifar10_archive_and_extracted_files(tmp_path):
  train, test = cifar_examples("cifar10", 50), cifar_examples("cifar10", 10, 1)
  members = cifar10_members(train, test)
  write_archive(tmp_path / "cifar-10-binary.tar.gz", members)
  extracted = tmp_path / "extracted"
  (extracted / "cifar-10-batches-bin").mkdir(parents=True)
  for name, data in members.items():
    (extracted / name).write_bytes(data)
  order = np.concatenate([np.arange(i, 50, 5) for i in range(5)])
  for folder in (tmp_path, extracted, extracted / "cifar-10-batches-bin"):
    found = publisher.read("cifar10", publisher.find("cifar10", folder))
    np.testing.assert_array_equal(found.train.images, train[0][order])
    np.testing.assert_array_equal(found.train.labels, train[1][order])
    np.testing.assert_array_equal(found.test.images, test[0])
    assert (found.info.num_train, found.info.num_test) == (50, 10)
    assert found.info.mean == KNOWN["cifar10"].mean


def test_cifar100_archive_has_fine_labels(tmp_path):
  train, test = cifar_examples("cifar100", 100), cifar_examples("cifar100", 7)
  write_archive(
    tmp_path / "cifar-100-binary.tar.gz",
    {
      "cifar-100-binary/train.bin": cifar_records("cifar100", *train),
      "cifar-100-binary/test.bin": cifar_records("cifar100", *test),
    },
  )
  found = publisher.read("cifar100", publisher.find("cifar100", tmp_path))
  np.testing.assert_array_equal(found.train.labels, train[1])
  np.testing.assert_array_equal(found.test.images, test[0])
  assert len(set(found.info.class_names)) == 100


def damage(path, kind):
  data = path.read_bytes()
  plain = gzip.decompress(data)
  path.write_bytes(
    {
      "truncated": data[: len(data) // 2],
      "empty": b"",
      "not gzip": b"hello, world",
      "flipped": data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
      "magic": gzip.compress(b"\0\0\x09" + plain[3:]),
      "short": gzip.compress(plain[:-1]),
      "header only": gzip.compress(plain[:6]),
      "no contents": gzip.compress(b""),
    }[kind]
  )


@pytest.mark.parametrize(
  "kind",
  [
    "truncated",
    "empty",
    "not gzip",
    "flipped",
    "magic",
    "short",
    "header only",
    "no contents",
  ],
)
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.checklist("H1")
def test_damaged_idx_is_named(tmp_path, kind, which):
  generator = np.random.default_rng(0)
  paths = idx_files(
    tmp_path, generator.integers(0, 256, (20, 28, 28)), np.arange(20) % 10
  )
  assert len(publisher.read_idx(*paths).labels) == 20
  damage(paths[which], kind)
  with pytest.raises(DataError, match=paths[which].name):
    publisher.read_idx(*paths)


@pytest.mark.checklist("H1")
def test_idx_counts_labels_and_shape_are_checked(tmp_path):
  paths = idx_files(tmp_path, np.zeros((20, 28, 28)), np.arange(19) % 10)
  with pytest.raises(DataError, match="20 images .* 19 labels"):
    publisher.read_idx(*paths)
  good = idx_files(tmp_path, np.zeros((20, 28, 28)), np.arange(20) % 10)
  cases = {
    "label 11 at position 3": (
      np.zeros((20, 28, 28)),
      np.where(np.arange(20) == 3, 11, np.arange(20) % 10),
    ),
    r"no example of 1 of its 10 classes: Ankle boot": (
      np.zeros((20, 28, 28)),
      np.arange(20) % 9,
    ),
    r"shape \(28, 27, 1\) in train": (
      np.zeros((20, 28, 27)),
      np.arange(20) % 10,
    ),
    "0 images": (np.zeros((0, 28, 28)), np.zeros(0)),
  }
  for message, (images, labels) in cases.items():
    folder = tmp_path / str(len(message))
    folder.mkdir(exist_ok=True)
    bad = idx_files(folder, images, labels)
    with pytest.raises(DataError, match=message):
      publisher.read("fashion_mnist", (*bad, *good))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda m: m.pop("cifar-10-batches-bin/test_batch.bin"), "lacks .*test_b"),
    (
      lambda m: m.update({"cifar-10-batches-bin/data_batch_2.bin": b""}),
      "data_batch_2.bin holds 0 bytes",
    ),
    (
      lambda m: m.update({"cifar-10-batches-bin/test_batch.bin": b"x" * 3072}),
      "test_batch.bin holds 3072 bytes; a positive multiple of 3073",
    ),
    (
      lambda m: m.update({"cifar-10-batches-bin/test_batch.bin": b"x" * 3073}),
      "test_batch.bin has label 120 in record 0; 0 to 9",
    ),
  ],
)
@pytest.mark.checklist("H1")
def test_damaged_cifar_archive_is_named(tmp_path, change, message):
  members = cifar10_members(
    cifar_examples("cifar10", 50), cifar_examples("cifar10", 10)
  )
  change(members)
  path = tmp_path / "cifar-10-binary.tar.gz"
  write_archive(path, members)
  with pytest.raises(DataError, match=message) as caught:
    publisher.read("cifar10", publisher.find("cifar10", tmp_path))
  assert str(path) in str(caught.value)


@pytest.mark.parametrize("kept", [0, 100, 5000])
@pytest.mark.checklist("H1")
def test_truncated_cifar_archive_is_named(tmp_path, kept):
  path = tmp_path / "cifar-10-binary.tar.gz"
  write_archive(
    path,
    cifar10_members(
      cifar_examples("cifar10", 50), cifar_examples("cifar10", 10)
    ),
  )
  path.write_bytes(path.read_bytes()[:kept])
  with pytest.raises(DataError, match="cannot be read"):
    publisher.read("cifar10", publisher.find("cifar10", tmp_path))


def test_find_needs_every_file(tmp_path):
  assert publisher.find("cifar10", tmp_path) == ()
  (tmp_path / "test_batch.bin").touch()
  assert publisher.find("cifar10", tmp_path) == ()
  assert publisher.find("cars196", tmp_path) == ()
