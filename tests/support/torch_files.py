"""Writes files in the format of `torch.save`, without PyTorch."""

import collections
import pickle
import sys
import types
import zipfile

import jax.numpy as jnp
import numpy as np


class Storage:
  """Stands for a PyTorch storage while a file is written."""

  def __init__(self, array):
    self.array = array


class Tensor:
  """Pickles as PyTorch's tensors do."""

  def __init__(self, array, offset=0, stride=None, size=None):
    array = np.asarray(array)
    self.storage = Storage(np.ravel(array))
    self.offset = offset
    steps = [n // array.itemsize for n in np.ones_like(array).strides]
    self.stride = tuple(steps) if stride is None else stride
    self.size = array.shape if size is None else size

  def __reduce__(self):
    rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
    hooks = collections.OrderedDict()
    return rebuild, (
      self.storage,
      self.offset,
      self.size,
      self.stride,
      False,
      hooks,
    )


def saver(monkeypatch, folder):
  """A function that writes a value into a file of the folder."""
  torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
  storages = {
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(jnp.bfloat16): "BFloat16Storage",
  }
  for name in storages.values():
    setattr(torch, name, type(name, (), {"__module__": "torch"}))

  def _rebuild_tensor_v2():
    raise AssertionError("stands for a name only")

  _rebuild_tensor_v2.__module__ = "torch._utils"
  _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
  utils._rebuild_tensor_v2 = _rebuild_tensor_v2
  monkeypatch.setitem(sys.modules, "torch", torch)
  monkeypatch.setitem(sys.modules, "torch._utils", utils)

  def save(value, name="net.pth"):
    path = folder / name
    written = {}

    class Pickler(pickle.Pickler):
      def persistent_id(self, obj):
        if not isinstance(obj, Storage):
          return None
        key = str(len(written))
        written[key] = obj.array.tobytes()
        kind = getattr(torch, storages[obj.array.dtype])
        return "storage", kind, key, "cpu", obj.array.size

    with zipfile.ZipFile(path, "w") as archive:
      with archive.open("net/data.pkl", "w") as file:
        Pickler(file, protocol=2).dump(value)
      archive.writestr("net/byteorder", "little")
      for key, data in written.items():
        archive.writestr(f"net/data/{key}", data)
    return path

  return save
