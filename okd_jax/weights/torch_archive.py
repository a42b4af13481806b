"""Reads tensors from files of PyTorch without running code from them."""

import collections
import io
import math
import pathlib
import pickle
from typing import Any
import zipfile
import zlib

import jax.numpy as jnp
import numpy as np

from okd_jax.errors import WeightsError
from okd_jax.storage import files, paths
from okd_jax.storage.paths import Path

# Common keys of the state dict in a checkpoint, most likely first.
_PLACES = (
  "state_dict",
  "model_state_dict",
  "model",
  "net",
  "network",
  "module",
  "student",
  "ema",
)


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
  """Reads a state dict from a file without running code from it.

  Args:
    path: a file of any name, of safetensors or as `torch.save` has written it
      since PyTorch 1.6. In a checkpoint, the state dict may be under
      "state_dict", "model_state_dict", "model", "net", "network", "module",
      "student" or "ema", also nested; of several, the first in this list is
      taken. Everything else in the file is skipped.

  Returns:
    NumPy arrays by name, in the order of the file.

  Raises:
    WeightsError: if the file cannot be read, is of another format, or holds no
      state dict.
  """
  with files.on_disk(paths.anywhere(path)) as file:
    return _state_dict(file)


def _state_dict(path: pathlib.Path) -> dict[str, np.ndarray]:
  if not zipfile.is_zipfile(path) and _is_safetensors(path):
    # Not among the base dependencies.
    import safetensors.numpy

    try:
      return dict(safetensors.numpy.load_file(path))
    except (OSError, safetensors.SafetensorError) as error:
      raise WeightsError(f"{path} cannot be read: {error}") from error
  found = _descend(read(path))
  if not isinstance(found, dict):
    raise WeightsError(
      f"{path} holds {_kind(found)}, not a dict; save the state dict of the "
      "network."
    )
  for name, value in found.items():
    if not isinstance(name, str) or not isinstance(value, np.ndarray):
      raise WeightsError(
        f"entry {name!r} of {path} is {_kind(value)}, not a tensor; save the "
        "state dict alone. Nothing in the file was run."
      )
  return dict(found)


def _is_safetensors(path: pathlib.Path) -> bool:
  """Whether a file is safetensors, by its name or its first bytes."""
  try:
    with path.open("rb") as file:
      start = file.read(9)
  except OSError as error:
    raise WeightsError(f"{path} cannot be read: {error.strerror}.") from error
  # The length of a JSON object, and that object.
  return path.suffix.lower() == ".safetensors" or start[8:] == b"{"


def _descend(loaded: Any) -> Any:
  """The state dict in a checkpoint, or the object found in its place."""
  # A bounded loop, as a file may hold a dict that contains itself.
  for _ in _PLACES:
    if not isinstance(loaded, dict):
      break
    # Beside the weights may be the name of the network, or the network itself.
    found = (loaded.get(place) for place in _PLACES)
    inner = next((value for value in found if isinstance(value, dict)), None)
    if inner is None:
      break
    loaded = inner
  return loaded


def _kind(value: Any) -> str:
  """The name of a value's type, with an article."""
  kind = type(value)
  if isinstance(value, Skipped):
    return f"a {kind.__module__}.{kind.__name__}"
  return f"a {kind.__name__}"


def read(path: pathlib.Path) -> Any:
  """Reads a file that `torch.save` has written since PyTorch 1.6.

  Args:
    path: a file of any name.

  Returns:
    The saved containers, with NumPy arrays in place of tensors, and `Skipped`
    in place of objects of other classes.

  Raises:
    WeightsError: if the file is of another format or damaged.
  """
  if not zipfile.is_zipfile(path):
    raise WeightsError(
      f"{path} is neither .safetensors nor a PyTorch zip archive, or it is "
      "incomplete; copy it again, or load it in PyTorch and save its state "
      "dict again."
    )
  try:
    with zipfile.ZipFile(path) as archive:
      return _read_archive(path, archive)
  except WeightsError:
    raise
  except _DAMAGE as error:
    raise WeightsError(f"{path} cannot be read: {error}") from error


def _read_archive(path, archive) -> Any:
  pickles = [n for n in archive.namelist() if n.endswith("/data.pkl")]
  if len(pickles) != 1:
    raise WeightsError(
      f"{path} is a zip archive, but torch.save has not written it; give a "
      "file of torch.save or .safetensors."
    )
  root = pickles[0].removesuffix("data.pkl")
  order = f"{root}byteorder"
  if order in archive.namelist() and archive.read(order) != b"little":
    raise WeightsError(
      f"{path} is big-endian, which is not supported; save it on a "
      "little-endian machine."
    )
  return _Unpickler(archive, root).load()


class Skipped:
  """Stands for an object whose class is not imported and never run.

  All operations of the file on such an object are ignored.
  """

  def __new__(cls, *args: Any, **kwargs: Any) -> "Skipped":
    del args, kwargs
    return super().__new__(cls)

  def __init__(self, *args: Any, **kwargs: Any):
    del args, kwargs

  def __setstate__(self, state: Any) -> None:
    del state

  def __setitem__(self, key: Any, value: Any) -> None:
    del key, value

  def __call__(self, *args: Any, **kwargs: Any) -> "Skipped":
    del args, kwargs
    return self

  def append(self, value: Any) -> None:
    """Ignores an entry of a list."""
    del value

  def add(self, value: Any) -> None:
    """Ignores an entry of a set."""
    del value


class _Unpickler(pickle.Unpickler):
  """Rebuilds tensors as NumPy arrays and skips every other object."""

  def __init__(self, archive, root):
    super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
    self._archive = archive
    self._root = root

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) in _ALLOWED:
      return _ALLOWED[module, name]
    if module == "torch" and name in _STORAGES:
      return np.dtype(_STORAGES[name])
    # A class and not an instance, since pickles call classes to make objects.
    return type(name, (Skipped,), {"__module__": module})

  def persistent_load(self, pid: Any) -> Any:
    kind, dtype, key, _, size = pid
    if kind != "storage":
      raise pickle.UnpicklingError(f"unknown storage {kind!r}")
    if not isinstance(dtype, np.dtype):
      return Skipped()
    data = self._archive.read(f"{self._root}data/{key}")
    return np.frombuffer(data, dtype, count=size)


def _rebuild_tensor(storage, offset, size, stride, *_):
  if not isinstance(storage, np.ndarray):
    return storage
  # The file gives offset and strides, which must not lead to other memory.
  last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
  if min((offset, *size, *stride)) < 0 or (
    math.prod(size) and last >= storage.size
  ):
    raise pickle.UnpicklingError("a tensor reaches beyond its storage")
  steps = [s * storage.itemsize for s in stride]
  view = np.lib.stride_tricks.as_strided(storage[offset:], size, steps)
  return view.copy()


def _rebuild_parameter(tensor, *_):
  return tensor


_DAMAGE = (
  pickle.UnpicklingError,
  zipfile.BadZipFile,
  zlib.error,
  AttributeError,
  EOFError,
  LookupError,
  OSError,
  RuntimeError,  # from zipfile, for example if the archive is encrypted
  TypeError,
  ValueError,
  OverflowError,
)
_ALLOWED: dict[tuple[str, str], Any] = {
  ("collections", "OrderedDict"): collections.OrderedDict,
  ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
  ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
  ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
}
_STORAGES: dict[str, Any] = {
  "DoubleStorage": np.float64,
  "FloatStorage": np.float32,
  "HalfStorage": np.float16,
  "BFloat16Storage": jnp.bfloat16,
  "LongStorage": np.int64,
  "IntStorage": np.int32,
  "ShortStorage": np.int16,
  "CharStorage": np.int8,
  "ByteStorage": np.uint8,
  "BoolStorage": np.bool_,
}
