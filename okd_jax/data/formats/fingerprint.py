"""Describes the files of a run, to notice when they have changed."""

from collections.abc import Iterable, Mapping
import json
import os

from okd_jax.errors import DataError
from okd_jax.storage.paths import Path

_quoted = json.encoder.encode_basestring_ascii


def describe(
  root: Path,
  names: Iterable[str],
  sums: Mapping[str, int],
  sizes: Mapping[str, int],
) -> tuple[str, ...]:
  """A line for every file: its path from the root, size and checksum.

  Args:
    root: the folder, which may be moved.
    names: names of the files in the folder, in any order.
    sums: checksums of files; null in the line of a file that has none.
    sizes: sizes of files; those that are missing are looked up on the disk.

  Returns:
    Lines of JSON, each a list of three.

  Raises:
    DataError: if a file cannot be read.
  """
  lines = []
  for name in names:
    size = sizes.get(name)
    if size is None:
      size = _size(root, name)
    lines.append(f"[{_quoted(name)}, {size}, {sums.get(name, 'null')}]")
  return tuple(lines)


def _size(root: Path, name: str) -> int:
  try:
    return os.stat(os.path.join(root, name)).st_size
  except OSError as error:
    raise DataError(f"{root / name} cannot be read ({error}).") from error
