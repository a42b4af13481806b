"""A folder of compiled programs that does not grow without end."""

import contextlib
import os


def prune(folder, most):
  """Removes the oldest files of a folder larger than `most` bytes.

  The newer half stays. Another process may do the same meanwhile.
  """
  found = []
  for entry in os.scandir(folder) if os.path.isdir(folder) else ():
    with contextlib.suppress(FileNotFoundError):
      about = entry.stat()
      found.append((about.st_mtime, about.st_size, entry.path))
  total = sum(size for _, size, _ in found)
  if total <= most:
    return
  for _, size, path in sorted(found):
    if total <= most / 2:
      return
    with contextlib.suppress(FileNotFoundError):
      os.remove(path)
    total -= size
