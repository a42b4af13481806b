"""NumPy readers of the publishers' own files: IDX, CIFAR binary, digits."""

import gzip
import importlib.util
import io
import math
import pathlib
import tarfile
import zlib

import numpy as np

from okd_jax.data import order
from okd_jax.data.info import describe, HostData, KNOWN, Split
from okd_jax.errors import DataError
from okd_jax.storage import bucket, files
from okd_jax.storage.paths import Path

_UNSIGNED_BYTE = 8  # IDX's code of the element type
_TEST_OF_DIGITS = 0x7E57  # fixed: the test split of digits
# Bytes before the label in a record, by number of classes: CIFAR-100 has the
# coarse label first.
_SKIP = {10: 0, 100: 1}
_PIXELS = 32 * 32 * 3

# Debian's package dataset-fashion-mnist puts the files there.
_DEBIAN = pathlib.Path("/usr/share/datasets/fashion-mnist")
_IDX_FILES = (
  "train-images-idx3-ubyte",
  "train-labels-idx1-ubyte",
  "t10k-images-idx3-ubyte",
  "t10k-labels-idx1-ubyte",
)
_CIFAR_FILES = {
  "cifar10": (
    "cifar-10-binary.tar.gz",
    "cifar-10-batches-bin",
    tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test_batch.bin",
  ),
  "cifar100": (
    "cifar-100-binary.tar.gz",
    "cifar-100-binary",
    ("train.bin",),
    "test.bin",
  ),
}


def expected_files(name: str) -> str:
  """Names the publisher's files that are looked for; "" if there are none."""
  if name == "fashion_mnist":
    return f"{', '.join(_IDX_FILES)} (each plain or .gz)"
  if name in _CIFAR_FILES:
    archive, folder, train, test = _CIFAR_FILES[name]
    return f"{archive}, or {', '.join((*train, test))} in {folder}"
  return ""


def find(name: str, data_dir: Path) -> tuple[Path, ...]:
  """Returns the publisher's files of a data set, or () if any is missing.

  Looks in `data_dir`, `data_dir/<name>` and, for Fashion-MNIST, where Debian's
  package puts them.
  """
  places = [data_dir, data_dir / name]
  if name == "fashion_mnist":
    places.append(_DEBIAN)
  for place in places:
    for wanted in _alternatives(name, place):
      with bucket.reached(data_dir):
        if all(file.is_file() for file in wanted):
          return wanted
  return ()


def _alternatives(name, place):
  if name == "fashion_mnist":
    for suffix in (".gz", ""):
      yield tuple(place / (file + suffix) for file in _IDX_FILES)
  elif name in _CIFAR_FILES:
    archive, folder, train, test = _CIFAR_FILES[name]
    yield (place / archive,)
    for parent in (place / folder, place):
      yield tuple(parent / file for file in (*train, test))


def read(name: str, found: tuple[Path, ...]) -> HostData:
  """Reads the files that `find` has found."""
  if name == "fashion_mnist":
    train, test = read_idx(*found[:2]), read_idx(*found[2:])
  else:
    train, test = _read_cifar(name, found)
  return describe(name, train, test, KNOWN[name].class_names)


def digits() -> HostData:
  """scikit-learn's digits: 8x8 grey images with values of 0 to 16.

  A fixed fifth of each class is the test split.
  """
  # The package itself takes a second to import, and only its file is needed.
  package = importlib.util.find_spec("sklearn")
  if package is None or package.origin is None:
    raise DataError(
      "data set 'digits' is part of scikit-learn, which is not installed; "
      "run: pip install scikit-learn"
    )
  file = pathlib.Path(package.origin).parent / "datasets/data/digits.csv.gz"
  try:
    table = np.loadtxt(file, delimiter=",")
  except OSError as error:
    raise DataError(
      f"data set 'digits' is read from scikit-learn, which is damaged ({error})"
      "; run: pip install --force-reinstall scikit-learn"
    ) from error
  pixels, target = table[:, :-1], table[:, -1]
  images = np.round(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
  labels = target.astype(np.int32)
  test, train = order.stratified(
    labels, KNOWN["digits"].num_test, _TEST_OF_DIGITS
  )
  return describe(
    "digits",
    Split(images[train], labels[train]),
    Split(images[test], labels[test]),
    KNOWN["digits"].class_names,
  )


def read_idx(images_path: Path, labels_path: Path) -> Split:
  """Reads a pair of IDX files, plain or gzip.

  Raises:
    DataError: naming the file and what is wrong with it.
  """
  images = _read_idx_array(images_path, 3)
  labels = _read_idx_array(labels_path, 1).astype(np.int32)
  if len(images) != len(labels):
    raise DataError(
      f"{images_path} holds {len(images)} images and {labels_path} "
      f"{len(labels)} labels; as many were expected. Replace both files."
    )
  return Split(images[..., None], labels)


def _read_idx_array(path: Path, rank: int) -> np.ndarray:
  data = _read_bytes(path)
  magic = bytes([0, 0, _UNSIGNED_BYTE, rank])
  head = 4 + 4 * rank
  if len(data) < head or data[:4] != magic:
    raise DataError(
      f"{path} starts with {data[:4].hex() or 'nothing'}; an IDX file of bytes "
      f"with {rank} axes starts with {magic.hex()}. Replace the file."
    )
  shape = np.frombuffer(data, ">u4", rank, offset=4).tolist()
  size = math.prod(shape)
  if len(data) - head != size:
    raise DataError(
      f"{path} holds {len(data) - head} bytes of data; its header {shape} asks "
      f"for {size}. Replace the file."
    )
  return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def _read_bytes(path: Path) -> bytes:
  try:
    data = files.content(path)
    return gzip.decompress(data) if path.suffix == ".gz" else data
  except (OSError, EOFError, zlib.error) as error:
    raise DataError(
      f"{path} cannot be read ({error}); replace the file."
    ) from error


def _read_cifar(name, found):
  _, folder, train, test = _CIFAR_FILES[name]
  wanted = (*train, test)
  if len(found) == 1:
    contents = _read_members(found[0], [f"{folder}/{file}" for file in wanted])
    paths = [f"{found[0]}:{file}" for file in wanted]
  else:
    contents = [_read_bytes(file) for file in found]
    paths = [str(file) for file in found]
  num_classes = KNOWN[name].num_classes
  parts = [
    _cifar_records(path, data, num_classes)
    for path, data in zip(paths, contents, strict=True)
  ]
  joined = Split(
    np.concatenate([part.images for part in parts[:-1]]),
    np.concatenate([part.labels for part in parts[:-1]]),
  )
  return joined, parts[-1]


def _read_members(path: Path, names: list[str]) -> list[bytes]:
  """Reads members of an archive into memory; nothing is extracted."""
  contents = {}
  try:
    packed = io.BytesIO(files.content(path))
    with tarfile.open(fileobj=packed) as archive:
      for member in archive:
        if member.name in names and member.isfile():
          file = archive.extractfile(member)
          assert file is not None, "a regular member can be read"
          contents[member.name] = file.read()
  except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
    raise DataError(
      f"{path} cannot be read ({error}); replace the file."
    ) from error
  missing = [name for name in names if name not in contents]
  if missing:
    raise DataError(
      f"{path} lacks {', '.join(missing)}; the publisher's archive has "
      f"{', '.join(names)}. Replace the file."
    )
  return [contents[name] for name in names]


def _cifar_records(path: str, data: bytes, num_classes: int) -> Split:
  skip = _SKIP[num_classes]
  record = skip + 1 + _PIXELS
  if not data or len(data) % record:
    raise DataError(
      f"{path} holds {len(data)} bytes; a positive multiple of {record} was "
      "expected. Replace the file."
    )
  rows = np.frombuffer(data, np.uint8).reshape(-1, record)
  labels = rows[:, skip].astype(np.int32)
  if labels.max() >= num_classes:
    at = int(np.argmax(labels >= num_classes))
    raise DataError(
      f"{path} has label {labels[at]} in record {at}; 0 to {num_classes - 1} "
      "were expected. Replace the file."
    )
  pixels = rows[:, skip + 1 :].reshape(-1, 3, 32, 32)
  return Split(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), labels)
