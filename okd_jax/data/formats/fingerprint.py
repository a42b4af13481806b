"""What a run remembers of its files, to notice when they have changed."""

from collections.abc import Iterable, Mapping
import json
import os
import pathlib

from okd_jax.errors import DataError


def describe(
  root: pathlib.Path,
  files: Iterable[pathlib.Path],
  sums: Mapping[pathlib.Path, int],
) -> tuple[str, ...]:
  """A line for every file: its path from the root, its size and its sum.

  Args:
    root: the folder that may move.
    files: in any order.
    sums: of the contents of files; what has none is null in the line.

  Raises:
    DataError: if a file cannot be read.
  """
  return tuple(
    json.dumps([os.path.relpath(file, root), _size(file), sums.get(file)])
    for file in files
  )


def _size(file: pathlib.Path) -> int:
  try:
    return file.stat().st_size
  except OSError as error:
    raise DataError(f"{file} cannot be read ({error}).") from error
