"""Files that are whole or not there at all."""

import os
from pathlib import Path


def write(
  path: Path,
  content: str | bytes,
  *,
  durable: bool = False,
  shared: bool = False,
) -> None:
  """Writes a file so that a reader sees the old content or the new one.

  Args:
    path: of the file; while it is written, `<name>.tmp` lies beside it.
    content: text is written as UTF-8.
    durable: return only when it would outlive a loss of power.
    shared: several processes may write it at the same time.
  """
  writer = f".{os.getpid()}" if shared else ""
  temporary = path.with_name(f"{path.name}{writer}.tmp")
  with temporary.open("wb") as file:
    file.write(content.encode() if isinstance(content, str) else content)
    if durable:
      file.flush()
      os.fsync(file.fileno())
  os.replace(temporary, path)
  if durable:
    _sync(path.parent)


def _sync(directory: Path) -> None:
  descriptor = os.open(directory, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
