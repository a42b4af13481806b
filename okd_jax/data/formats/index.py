"""The index of a folder of data, written once and read at every start.

`.okd_jax_index` in the folder has a line that says what it is, the SHA-256 of
the content, and the content: JSON, compressed by zlib. Names, sizes and
checksums do not depend on where the folder is, so the file may be copied with
it, also into a bucket.
"""

from collections.abc import Sequence
import hashlib
import json
import os
import pathlib
import shlex
from typing import Any
import zlib

from okd_jax.data.formats import walk
from okd_jax.errors import DataError
from okd_jax.storage import bucket, files
from okd_jax.storage.paths import Path

_FIRST = b"okd_jax index 1"
_PICTURES, _RECORDS = "pictures", "records"
_MOST = 3


def pictures(root: Path) -> walk.Seen | None:
  """The pictures of a folder as listed in its index; None without an index.

  On a disk the times of folders tell whether something was added or removed
  since; a bucket has no such times. The content of a picture is compared when
  it is read.

  Raises:
    DataError: if the index is damaged, or older than the folder.
  """
  content = _read(root, _PICTURES)
  if content is None:
    return None
  names = content["names"]
  seen = walk.Seen(
    root,
    names,
    content["left_out"],
    content["folders"],
    dict(zip(names, content["sizes"], strict=True)),
    dict(zip(names, content["sums"], strict=True)),
  )
  if isinstance(root, pathlib.Path) and _has_changed(root, content):
    # A folder that was copied has other times, and may be the same.
    now = walk.look(root).names
    if now != names:
      raise stale(root, difference(names, now))
  return seen


def records(root: Path) -> dict[str, Any] | None:
  """Reads what `write_records` has written; None without an index.

  Raises:
    DataError: if the index is damaged.
  """
  return _read(root, _RECORDS)


def write_pictures(
  seen: walk.Seen, sizes: Sequence[int], sums: Sequence[int]
) -> Path:
  """Writes the index of a folder of pictures, and returns its path.

  Args:
    seen: the folder.
    sizes: size of each picture in bytes.
    sums: CRC-32 of each picture.
  """
  content = {
    "names": seen.names,
    "sizes": sizes,
    "sums": sums,
    "left_out": seen.left_out,
    # Writing the index gives the root itself another time.
    "folders": {**seen.folders, "": 0},
    "top": _top(seen.root),
  }
  return _write(seen.root, _PICTURES, content)


def write_records(root: Path, content: dict[str, Any]) -> Path:
  """Writes the index of a prepared copy, and returns its path."""
  return _write(root, _RECORDS, content)


def remove(root: Path) -> None:
  """Removes the index of a folder, if there is one, to write another.

  Raises:
    DataError: if the folder cannot be written.
  """
  path = root / walk.INDEX
  if isinstance(root, pathlib.Path) and root.is_dir():
    if not os.access(root, os.W_OK):
      raise _unwritable(path, "permission denied")
  with bucket.reached(root):
    path.unlink(missing_ok=True)


def stale(root: Path, changes: str) -> DataError:
  """The error for a folder that does not match its index."""
  return DataError(
    f"{root / walk.INDEX} is not of the files that are there now: {changes}. "
    f"{_remedy(root)}"
  )


def difference(then: Sequence[str], now: Sequence[str]) -> str:
  """Says which names are new and which are gone."""
  before, after = set(then), set(now)
  parts = [
    f"{len(names)} {what} ({', '.join(names[:_MOST])}"
    f"{f' and {len(names) - _MOST} more' if len(names) > _MOST else ''})"
    for what, names in (
      ("added", [name for name in now if name not in before]),
      ("removed", [name for name in then if name not in after]),
    )
    if names
  ]
  return "; ".join(parts)


def command(root: Path) -> str:
  """The command that writes an index."""
  return (
    f"python -m okd_jax data {shlex.quote(os.fspath(root))} --index "
    "--config.data.source=stream"
  )


def _remedy(root: Path) -> str:
  return f"Write it again: {command(root)}; or remove it."


def _top(root: Path) -> list[str]:
  """The entries directly in a folder of this machine, without the index."""
  if not isinstance(root, pathlib.Path):
    return []
  return sorted(n for n in os.listdir(root) if not n.startswith(walk.INDEX))


def _has_changed(root: pathlib.Path, content: dict[str, Any]) -> bool:
  inner = {name: then for name, then in content["folders"].items() if name}
  try:
    return content["top"] != _top(root) or any(
      os.stat(root / name).st_mtime_ns != then for name, then in inner.items()
    )
  except OSError:
    return True


def _read(root: Path, kind: str) -> dict[str, Any] | None:
  try:
    found = files.content(root / walk.INDEX)
  except (FileNotFoundError, NotADirectoryError):
    return None
  first, _, rest = found.partition(b"\n")
  digest, _, packed = rest.partition(b"\n")
  if hashlib.sha256(packed).hexdigest().encode() != digest or first != _FIRST:
    raise DataError(
      f"{root / walk.INDEX} is damaged, or of another release: its SHA-256 is "
      f"not the one that it says. {_remedy(root)}"
    )
  content: dict[str, Any] = json.loads(zlib.decompress(packed))
  if content.pop("kind") != kind:
    raise DataError(
      f"{root / walk.INDEX} is not an index of {kind}. {_remedy(root)}"
    )
  return content


def _write(root: Path, kind: str, content: dict[str, Any]) -> Path:
  packed = zlib.compress(json.dumps({"kind": kind} | content).encode(), 6)
  digest = hashlib.sha256(packed).hexdigest().encode()
  path = root / walk.INDEX
  try:
    files.write(path, b"\n".join((_FIRST, digest, packed)))
  except OSError as error:
    raise _unwritable(path, error) from error
  return path


def _unwritable(path: Path, why: object) -> DataError:
  return DataError(
    f"{path} cannot be written ({why}); an index lies in the folder that it is "
    "of. Make that writable, or go on without an index."
  )
