"""Files that are either complete or absent, on this machine and in buckets.

A bucket has no folders, no renaming and no appending; its files appear when
they are complete.
"""

from collections.abc import Iterator, Sequence
import contextlib
import os
import pathlib
import secrets
import shutil
import tempfile
import time
from typing import TYPE_CHECKING

from okd_jax.storage import bucket
from okd_jax.storage.paths import Path

if TYPE_CHECKING:
  from etils import epath

# Of what lies beside people's files for a while; the rest is a random name,
# so nothing is ever in its place.
_OURS = ".okd_jax_"
_TEMPORARY = (".tmp", ".deleted")
# No write takes so long.
_ABANDONED_SECONDS = 24 * 60 * 60.0


def write(path: Path, content: str | bytes, *, durable: bool = False) -> None:
  """Writes a file so that a reader sees the old content or the new one.

  Several processes may write it at the same time.

  Args:
    path: path of the file.
    content: bytes, or text, which is written as UTF-8. Parts of characters that
      UTF-8 cannot encode, as in names of files, are written as a backslash and
      their number.
    durable: whether to return only when the file would survive a loss of power.
  """
  raw = content
  if isinstance(raw, str):
    raw = raw.encode(errors="backslashreplace")
  if not isinstance(path, pathlib.Path):
    path.write_bytes(raw)
    return
  temporary = path.with_name(f"{_OURS}{secrets.token_hex(8)}.tmp")
  try:
    with temporary.open("xb") as file:
      file.write(raw)
      if durable:
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  if durable:
    _sync(path.parent)


def make_folder(path: Path) -> None:
  """Makes a folder and those above it, where folders exist."""
  if isinstance(path, pathlib.Path):
    path.mkdir(parents=True, exist_ok=True)


def remove_folder(path: Path) -> None:
  """Removes a folder and all in it; on a disk, all of it disappears at once."""
  if not isinstance(path, pathlib.Path):
    if path.exists():
      path.rmtree()
    return
  if path.exists():
    with _beside(path, ".deleted") as made:
      path.rename(made / "removed")


def sweep(folder: pathlib.Path) -> None:
  """Removes files from a folder that killed writes left there.

  Files younger than a day stay: a living process may still need them, perhaps
  on another machine.
  """
  for left in folder.glob(f"{_OURS}*"):
    with contextlib.suppress(OSError):
      is_old = time.time() - left.stat().st_mtime > _ABANDONED_SECONDS
      if is_old and left.suffix in _TEMPORARY:
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def names_below(folder: Path) -> list[str]:
  """Paths of all files below a folder, relative to it, sorted."""
  if isinstance(folder, pathlib.Path):
    files = (p for p in folder.rglob("*") if p.is_file())
    return sorted(p.relative_to(folder).as_posix() for p in files)
  found = []
  # The addresses there lack the scheme.
  top = os.fspath(folder).partition("://")[2]
  for inside, _, names in folder.walk():
    part = os.fspath(inside).removeprefix(top).strip("/")
    found += [f"{part}/{name}" if part else name for name in names]
  return sorted(found)


def exists(path: Path) -> bool:
  """Whether there is a file or a folder.

  Raises:
    UnreachableError: if the path is in a bucket that cannot be reached.
  """
  with bucket.reached(path):
    return path.exists()


def is_file(path: Path) -> bool:
  """Whether there is a file; errors as for `exists`."""
  with bucket.reached(path):
    return path.is_file()


def is_folder(path: Path) -> bool:
  """Whether there is a folder; errors as for `exists`."""
  with bucket.reached(path):
    return path.is_dir()


class Look:
  """Tells which files exist; a folder of a bucket is listed only once.

  Use it only while no other program changes the files.
  """

  def __init__(self) -> None:
    self._sizes: dict[str, dict[str, int]] = {}

  def names(self, folder: Path) -> list[str]:
    """The files directly in a folder; empty if there is no such folder."""
    if not isinstance(folder, pathlib.Path):
      return list(self._sizes_in(folder))
    there = folder.iterdir() if folder.is_dir() else ()
    return [path.name for path in there if path.is_file()]

  def has(self, path: Path) -> bool:
    """Whether a file exists."""
    if isinstance(path, pathlib.Path):
      return path.is_file()
    return path.name in self._sizes_in(path.parent)

  def size(self, path: Path) -> int:
    """Size in bytes of a file that exists."""
    if isinstance(path, pathlib.Path):
      return path.stat().st_size
    return self._sizes_in(path.parent)[path.name]

  def _sizes_in(self, folder: "epath.Path") -> dict[str, int]:
    name = os.fspath(folder)
    if name not in self._sizes:
      self._sizes[name] = bucket.sizes_in(folder)
    return self._sizes[name]


def read(
  folder: Path, parts: Sequence[tuple[str, int, int]]
) -> list[bytes | Exception]:
  """Reads files, or parts of them; in a bucket all at the same time.

  Args:
    folder: the folder of the files.
    parts: name, offset and length of each; a length of -1 is the whole file.

  Returns:
    For each the bytes, or the error that prevented reading them.
  """
  if not isinstance(folder, pathlib.Path):
    return bucket.read(folder, parts)
  found: list[bytes | Exception] = []
  for part in parts:
    try:
      found.append(_part(folder, *part))
    except OSError as error:
      found.append(error)
  return found


def content(path: Path) -> bytes:
  """Reads a file.

  Raises:
    OSError: if it does not exist, or cannot be read from a disk.
    UnreachableError: if it cannot be read from a bucket.
  """
  if isinstance(path, pathlib.Path):
    return path.read_bytes()
  (found,) = bucket.read(path.parent, [(path.name, 0, -1)])
  if isinstance(found, Exception):
    raise found
  return found


def text(path: Path) -> str:
  """As `content`, for UTF-8 text, whatever the locale of the machine.

  Raises:
    UnicodeDecodeError: if the file has another encoding.
  """
  return content(path).decode()


def contents(paths: Sequence[Path]) -> list[bytes | Exception]:
  """Reads whole files; those of one folder in a bucket at the same time.

  Returns:
    What was read, or why it could not be.
  """
  found: dict[Path, bytes | Exception] = {}
  by_folder: dict[Path, list[Path]] = {}
  for path in paths:
    by_folder.setdefault(path.parent, []).append(path)
  for folder, inside in by_folder.items():
    parts = [(path.name, 0, -1) for path in inside]
    found |= dict(zip(inside, read(folder, parts), strict=True))
  return [found[path] for path in paths]


def _part(folder: pathlib.Path, name: str, offset: int, length: int) -> bytes:
  with open(os.path.join(folder, name), "rb") as file:
    if length < 0:
      return file.read()
    return os.pread(file.fileno(), length, offset)


@contextlib.contextmanager
def on_disk(path: Path) -> Iterator[pathlib.Path]:
  """A file as one on this machine, for readers that need to seek in it."""
  if isinstance(path, pathlib.Path):
    yield path
    return
  with tempfile.TemporaryDirectory(prefix="okd_jax_") as made:
    copied = pathlib.Path(made) / path.name
    copied.write_bytes(content(path))
    yield copied


@contextlib.contextmanager
def replacing(folder: Path, last: str) -> Iterator[pathlib.Path]:
  """Gives a folder to fill, which then replaces another one as a whole.

  Args:
    folder: the folder to replace, if it exists.
    last: name of the file without which readers treat the folder as absent: in
      a bucket it is deleted first and written last.

  Yields:
    An empty folder on this machine.
  """
  if not isinstance(folder, pathlib.Path):
    with tempfile.TemporaryDirectory(prefix="okd_jax_") as made:
      filled = pathlib.Path(made)
      yield filled
      (folder / last).unlink(missing_ok=True)
      remove_folder(folder)
      inside = [p for p in sorted(filled.rglob("*")) if p.is_file()]
      for file in sorted(inside, key=lambda p: p == filled / last):
        write(folder / file.relative_to(filled).as_posix(), file.read_bytes())
    return
  make_folder(folder.parent)
  with _beside(folder, ".tmp") as made:
    filled, replaced = made / "new", made / "old"
    # Inside, as a temporary folder itself is closed to others.
    filled.mkdir()
    yield filled
    # Only whole folders ever have the final name.
    try:
      if folder.exists():
        folder.rename(replaced)
      filled.rename(folder)
    except BaseException:
      if replaced.exists() and not folder.exists():
        replaced.rename(folder)
      raise


@contextlib.contextmanager
def _beside(path: pathlib.Path, ending: str) -> Iterator[pathlib.Path]:
  """A folder on the disk of another one, removed afterwards."""
  with tempfile.TemporaryDirectory(ending, _OURS, path.parent) as made:
    yield pathlib.Path(made)


def _sync(directory: pathlib.Path) -> None:
  descriptor = os.open(directory, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
