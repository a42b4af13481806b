"""Tensors from PyTorch's files, without running code from them."""

import collections
import io
import math
import pathlib
import pickle
from typing import Any
import zipfile

import jax.numpy as jnp
import numpy as np


def read(path: pathlib.Path) -> Any:
  """Reads what `torch.save` wrote since PyTorch 1.6.

  Args:
    path: a .pth or .pt file.

  Returns:
    The saved containers with NumPy arrays in place of tensors.

  Raises:
    ValueError: if the file is of another format, damaged, or holds objects
      other than tensors and plain containers.
  """
  if not zipfile.is_zipfile(path):
    raise ValueError(
      f"{path} is neither .safetensors nor a PyTorch zip archive; load it in "
      f"PyTorch and save its state dict again."
    )
  with zipfile.ZipFile(path) as archive:
    return _read_archive(path, archive)


def _read_archive(path, archive) -> Any:
  pickles = [n for n in archive.namelist() if n.endswith("/data.pkl")]
  if len(pickles) != 1:
    raise ValueError(f"{path} is a zip archive, but not one of torch.save.")
  root = pickles[0].removesuffix("data.pkl")
  order = f"{root}byteorder"
  if order in archive.namelist() and archive.read(order) != b"little":
    raise ValueError(f"{path} is big-endian; save it on a common machine.")
  try:
    return _Unpickler(archive, root).load()
  except _DAMAGE as error:
    raise ValueError(f"{path} cannot be read: {error}") from error


class _Unpickler(pickle.Unpickler):
  """Rebuilds tensors as NumPy arrays and refuses every other object."""

  def __init__(self, archive, root):
    super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
    self._archive = archive
    self._root = root

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) in _ALLOWED:
      return _ALLOWED[module, name]
    if module == "torch" and name in _STORAGES:
      return np.dtype(_STORAGES[name])
    raise ValueError(
      f"the file refers to {module}.{name}, which a state dict of tensors does "
      f"not need; it is not run. Save the state dict alone."
    )

  def persistent_load(self, pid: Any) -> np.ndarray:
    kind, dtype, key, _, size = pid
    if kind != "storage" or not isinstance(dtype, np.dtype):
      raise pickle.UnpicklingError(f"unknown storage {kind!r}")
    data = self._archive.read(f"{self._root}data/{key}")
    return np.frombuffer(data, dtype, count=size)


def _rebuild_tensor(storage, offset, size, stride, *_):
  # The file states the strides: outside the storage is other memory.
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
  AttributeError,
  EOFError,
  LookupError,
  TypeError,
)
_ALLOWED: dict[tuple[str, str], Any] = {
  ("collections", "OrderedDict"): collections.OrderedDict,
  ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
  ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
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
