"""Folders that the kernel lets nobody write to, whoever runs the tests."""

import contextlib
import ctypes
import os

# Of linux/capability.h: what lets the administrator pass by permissions.
_DAC_OVERRIDE = 1
_VERSION_3 = 0x20080522
_EVERYTHING = 0xFFFFFFFF


class _Header(ctypes.Structure):
  _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
  _fields_ = [
    (name, ctypes.c_uint32)
    for name in ("effective", "permitted", "inheritable")
  ]


@contextlib.contextmanager
def read_only(folder):
  """Makes a folder and what is in it unwritable for this thread."""
  paths = [folder, *folder.rglob("*")]
  modes = [path.stat().st_mode for path in paths]
  for path, mode in zip(paths, modes, strict=True):
    path.chmod(mode & ~0o222)
  try:
    with _as_anybody():
      yield
  finally:
    for path, mode in zip(paths, modes, strict=True):
      path.chmod(mode)


@contextlib.contextmanager
def _as_anybody():
  """Takes from the administrator the right to write everywhere."""
  if os.geteuid():
    yield
    return
  libc = ctypes.CDLL(None, use_errno=True)
  header, kept = _Header(_VERSION_3, 0), (_Data * 2)()
  _check(libc.capget(ctypes.byref(header), kept))
  fewer = (_Data * 2).from_buffer_copy(kept)
  fewer[0].effective &= _EVERYTHING ^ (1 << _DAC_OVERRIDE)
  _check(libc.capset(ctypes.byref(header), fewer))
  try:
    yield
  finally:
    _check(libc.capset(ctypes.byref(header), kept))


def _check(status):
  if status:
    raise OSError(ctypes.get_errno(), "capabilities cannot be changed")
