"""Lists the files below a folder, on this machine or in a bucket."""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import io
import os
import pathlib

from okd_jax.data import images
from okd_jax.errors import DataError
from okd_jax.storage import bucket, files
from okd_jax.storage.paths import Path

# Beside the pictures, see `index`; no picture and nothing that is left out.
INDEX = ".okd_jax_index"
# What systems leave behind beside the files of people.
_OF_SYSTEMS = frozenset(
  "__macosx @eadir #recycle $recycle.bin lost+found thumbs.db desktop.ini "
  ".ds_store".split()
) | {"system volume information"}
# As much of an object is looked at to tell whether it is a picture.
_HEAD = 2**20

HIDDEN = "hidden, or a system's own"
FOREIGN = "no pictures"
BROKEN = "links to nothing"
LOOP = "links to a folder that they lie in"
_REASONS = (HIDDEN, FOREIGN, BROKEN, LOOP)


@dataclasses.dataclass(frozen=True)
class Seen:
  """The files of a folder; names are paths relative to it, with "/".

  Attributes:
    root: the folder.
    names: names of the pictures, in alphabetical order in each folder.
    left_out: names of files and folders that are not used, by reason.
    folders: every folder that may contain pictures, "" for the root, and when
      something was last added or removed there, in ns; 0 in a bucket.
    sizes: size of every picture in bytes; {} if they must be looked up.
    sums: CRC-32 of every picture, {} if they are not known.
  """

  root: Path
  names: list[str]
  left_out: dict[str, list[str]]
  folders: Mapping[str, int]
  sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
  sums: Mapping[str, int] = dataclasses.field(default_factory=dict)


def look(root: Path) -> Seen:
  """Looks at every name below a folder.

  Files with the ending of a picture's name count as pictures; the content of
  others is checked. Hidden files, files of operating systems, pipes, and links
  to nothing or to a folder that they lie in are left out.

  Raises:
    DataError: naming a folder that cannot be read.
  """
  if not isinstance(root, pathlib.Path):
    return _look_in_bucket(root)
  folders: dict[str, int] = {}
  found = Seen(root, [], {why: [] for why in _REASONS}, folders)
  for name, why in _walk(str(root), "", frozenset(), folders):
    (found.left_out[why] if why else found.names).append(name)
  return found


def below(
  paths: Iterable[pathlib.Path],
) -> tuple[list[pathlib.Path], dict[str, list[pathlib.Path]]]:
  """Finds the pictures anywhere below folders of this machine.

  Returns:
    The pictures, as `look` finds them, and what is left out, by reason.
  """
  pictures: list[pathlib.Path] = []
  left_out: dict[str, list[pathlib.Path]] = {why: [] for why in _REASONS}
  for path in paths:
    found = look(path)
    pictures += [path / name for name in found.names]
    for why, names in found.left_out.items():
      left_out[why] += [path / name for name in names]
  return pictures, left_out


def is_hidden(name: str) -> bool:
  """Whether a name is hidden, or belongs to a file of an operating system."""
  return name.startswith(".") or name.lower() in _OF_SYSTEMS


def _walk(
  root: str, inside: str, parents: frozenset[str], folders: dict[str, int]
) -> Iterator[tuple[str, str | None]]:
  """Every file of a folder in the root, and why it is left out, if it is."""
  folder = f"{root}/{inside}" if inside else root
  within = parents | {os.path.realpath(folder)}
  try:
    # Before it is listed: what comes later has to show.
    folders[inside] = os.stat(folder).st_mtime_ns
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
  except OSError as error:
    raise DataError(
      f"{folder} cannot be read ({error.strerror}); mend its permissions, or "
      "move it elsewhere."
    ) from error
  for entry in entries:
    name = f"{inside}/{entry.name}" if inside else entry.name
    if entry.name == INDEX:
      continue
    # So is a link to itself.
    is_broken = entry.is_symlink() and not os.path.exists(entry.path)
    if is_hidden(entry.name):
      yield name, HIDDEN
    elif not is_broken and entry.is_dir():
      if entry.is_symlink() and os.path.realpath(entry.path) in within:
        yield name, LOOP
      else:
        yield from _walk(root, name, within, folders)
    elif not is_broken and not entry.is_file():  # reading a pipe never ends
      yield name, FOREIGN
    elif _ends_like_one(name):
      yield name, None
    elif is_broken:
      yield name, BROKEN
    else:
      yield name, None if images.is_picture(entry.path) else FOREIGN


def _look_in_bucket(root: Path) -> Seen:
  sizes = bucket.sizes_below(root)
  folders = {"": 0}
  hidden: dict[str, None] = {}
  names, unknown = [], []
  # In the order in which folders of a disk are walked through.
  for name in sorted(sizes, key=lambda name: name.split("/")):
    parts = name.split("/")
    odd = next((i for i, part in enumerate(parts) if is_hidden(part)), None)
    if parts[-1] == INDEX:
      continue
    if odd is not None:
      hidden["/".join(parts[: odd + 1])] = None
      continue
    for depth in range(1, len(parts)):
      folders["/".join(parts[:depth])] = 0
    names.append(name)
    if not _ends_like_one(name):
      unknown.append(name)
  heads = files.read(
    root, [(n, 0, _HEAD if sizes[n] > _HEAD else -1) for n in unknown]
  )
  foreign = []
  for name, head in zip(unknown, heads, strict=True):
    if isinstance(head, Exception):
      raise head
    if not images.is_picture(io.BytesIO(head)):
      foreign.append(name)
  others = set(foreign)
  names = [name for name in names if name not in others]
  left_out = {HIDDEN: list(hidden), FOREIGN: foreign}
  return Seen(root, names, left_out, folders, sizes)


def _ends_like_one(name: str) -> bool:
  return os.path.splitext(name)[1].lower() in images.suffixes()
