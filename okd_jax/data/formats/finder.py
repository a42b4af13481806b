"""Which pictures of a folder belong to which split and class."""

from collections.abc import Iterable, Iterator
import dataclasses
import os
import pathlib
import re

from okd_jax.data import images
from okd_jax.errors import DataError
from okd_jax.storage import paths

# Splits; the pictures of a folder without splits are all of `ALL`.
TRAIN, VALIDATION, TEST, ALL = "train", "validation", "test", "all"
# What people call them, in small letters, without what `_role` takes away.
_NAMES = {
  TRAIN: frozenset("train training trn".split()),
  VALIDATION: frozenset("val valid validation validate dev".split()),
  TEST: frozenset("test testing tst".split()),
}
_ENDING = re.compile(r"(set|data|split|images|imgs)?$")
# What systems leave behind beside the files of people.
_OF_SYSTEMS = frozenset(
  "__macosx @eadir #recycle $recycle.bin lost+found thumbs.db desktop.ini "
  ".ds_store".split()
) | {"system volume information"}

HIDDEN = "hidden, or a system's own"
FOREIGN = "no pictures"
STRAY = "outside of the folders of classes"

Classes = dict[str, list[pathlib.Path]]


@dataclasses.dataclass(frozen=True)
class Found:
  """The pictures of a folder, in alphabetical order.

  Attributes:
    root: the folder.
    splits: files by split and class: `ALL` alone, or `TRAIN` first.
    folders: the name of the folder of each split, "" for `ALL`.
    left_out: files and folders that are not used, by reason.
    notes: what people may not expect, each a sentence.
  """

  root: pathlib.Path
  splits: dict[str, Classes]
  folders: dict[str, str]
  left_out: dict[str, tuple[pathlib.Path, ...]]
  notes: tuple[str, ...]

  @property
  def class_names(self) -> tuple[str, ...]:
    """Names of the classes, in the order of their labels."""
    return tuple(next(iter(self.splits.values())))

  @property
  def files(self) -> Iterator[pathlib.Path]:
    """The pictures of all splits."""
    return (
      file
      for classes in self.splits.values()
      for group in classes.values()
      for file in group
    )


def find(path: str) -> Found:
  """Finds the pictures of a folder.

  Either PATH/train/CLASS/**, with folders for validation and test beside it, or
  PATH/CLASS/**. A validation folder is the test split where there is no other.

  Raises:
    DataError: if the folder has another structure.
  """
  root = paths.expand(path)
  if not root.is_dir():
    raise DataError(
      f"{root} is not a folder; one with train/CLASS/* and test/CLASS/*, or "
      "with CLASS/*, was expected. Correct the path; if the pictures of a run "
      "have moved, --data=PATH says where they are now."
    )
  pictures, left_out = below([root])
  tops = _by_folder(root, pictures)
  roles = _roles(root, tops)
  notes: list[str] = []
  if not roles:
    folders = {ALL: ""}
    notes += _class_called_train(tops)
    used = {ALL: _classes(root, tops, root)}
  else:
    folders = {role: roles[role] for role in _NAMES if role in roles}
    if TEST not in folders and VALIDATION in folders:
      folders[TEST] = folders.pop(VALIDATION)
      notes.append(
        f"{folders[TEST]} is the test split, as there is no other; best is "
        "chosen on it."
      )
    used = {
      role: _classes(root / name, _by_folder(root / name, tops[name]), root)
      for role, name in folders.items()
    }
    _require_same_classes(root, used, folders)
  kept = {file for c in used.values() for files in c.values() for file in files}
  left_out[STRAY] = [file for file in pictures if file not in kept]
  reasons = {why: tuple(files) for why, files in left_out.items() if files}
  notes += _explain_left_out(root, reasons)
  return Found(root, used, folders, reasons, tuple(notes))


def below(
  paths: Iterable[pathlib.Path],
) -> tuple[list[pathlib.Path], dict[str, list[pathlib.Path]]]:
  """Finds the pictures anywhere below folders.

  Files whose names end like a picture's are taken at their word; the others
  are looked at. Hidden files and what systems leave behind are left out.

  Returns:
    The pictures, in alphabetical order in each folder, and what is left out,
    by reason.
  """
  pictures: list[pathlib.Path] = []
  left_out: dict[str, list[pathlib.Path]] = {HIDDEN: [], FOREIGN: []}
  for path in paths:
    for file, why in _walk(str(path), frozenset()):
      found = left_out[why] if why else pictures
      found.append(pathlib.Path(file))
  return pictures, left_out


def _walk(
  folder: str, parents: frozenset[str]
) -> Iterator[tuple[str, str | None]]:
  """Every file below a folder, and why it is left out, None if it is not."""
  here = os.path.realpath(folder)
  if here in parents:  # a link to a folder that it lies in
    return
  for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
    name = entry.name
    if _is_hidden(name):
      yield entry.path, HIDDEN
    elif entry.is_dir():
      yield from _walk(entry.path, parents | {here})
    elif os.path.splitext(name)[1].lower() in images.suffixes():
      yield entry.path, None
    else:
      yield entry.path, None if images.is_picture(entry.path) else FOREIGN


def _by_folder(
  root: pathlib.Path, pictures: list[pathlib.Path]
) -> dict[str, list[pathlib.Path]]:
  """Pictures by the folder directly below the root; empty folders too."""
  depth = len(root.parts)
  groups: dict[str, list[pathlib.Path]] = {
    entry.name: []
    for entry in sorted(root.iterdir())
    if entry.is_dir() and not _is_hidden(entry.name)
  }
  for picture in pictures:
    if len(picture.parts) > depth + 1:
      groups[picture.parts[depth]].append(picture)
  return groups


def _roles(
  root: pathlib.Path, tops: dict[str, list[pathlib.Path]]
) -> dict[str, str]:
  """The folders of the splits, none if these are classes.

  A folder that is called train is a class where others than splits are beside
  it, unless another split is there too and both are divided into classes.
  """
  roles: dict[str, list[str]] = {}
  for name in tops:
    if role := role_of(name):
      roles.setdefault(role, []).append(name)
  named = {name for names in roles.values() for name in names}
  others = [name for name, pictures in tops.items() if pictures]
  others = [name for name in others if name not in named]
  divided = {
    role
    for role, names in roles.items()
    if all(_is_divided(root / name, tops[name]) for name in names)
  }
  if others and (TRAIN not in divided or len(divided) < 2):
    return {}
  if TRAIN not in roles:
    if divided:
      raise DataError(
        f"{root} has {', '.join(sorted(named))} and no folder to train on; one "
        "that is called train was expected. Rename the one that is meant."
      )
    return {}
  for role, names in roles.items():
    if len(names) > 1:
      raise DataError(
        f"{root} has {len(names)} folders for {role}: {', '.join(names)}; one "
        "was expected. Move the others elsewhere, or bring them together."
      )
  return {role: names[0] for role, names in roles.items()}


def role_of(name: str) -> str | None:
  """The split that a name stands for, None if it does not say."""
  letters = re.sub(r"[^a-z]", "", name.lower())
  base = _ENDING.sub("", letters) or letters
  return next((r for r, names in _NAMES.items() if base in names), None)


def _is_divided(folder: pathlib.Path, pictures: list[pathlib.Path]) -> bool:
  """Whether pictures lie in folders of their own and nowhere else."""
  return bool(pictures) and all(file.parent != folder for file in pictures)


def _classes(
  folder: pathlib.Path,
  classes: dict[str, list[pathlib.Path]],
  root: pathlib.Path,
) -> Classes:
  empty = [name for name, files in classes.items() if not files]
  if len(classes) - len(empty) >= 2 and not empty:
    return classes
  said = (
    f"{folder} has {len(classes)} class folders, of which "
    f"{', '.join(empty) or 'none'} lack images; two classes at least, each "
    "with pictures that Pillow reads, were expected."
  )
  if len(classes) == 1 and not empty and folder == root:
    (only,) = classes
    raise DataError(
      f"{said} If the classes are in {folder / only}, set "
      f"config.data.name=folder:{folder / only}."
    )
  raise DataError(
    f"{said} Add pictures, or move folders that are no classes elsewhere."
  )


def _require_same_classes(
  root: pathlib.Path, splits: dict[str, Classes], folders: dict[str, str]
) -> None:
  names = set(splits[TRAIN])
  for role, classes in splits.items():
    if odd := sorted(set(classes) ^ names):
      raise DataError(
        f"{root} has the classes {', '.join(odd)} in one split only; "
        f"{folders[role]} must have the same class folders as "
        f"{folders[TRAIN]}. Add pictures of them, rename them if they are the "
        "same by another name, or move them elsewhere."
      )


def _class_called_train(tops: dict[str, list[pathlib.Path]]) -> list[str]:
  called = [name for name in tops if role_of(name)]
  return [
    f"{name} is taken as a class, as other classes are beside it."
    for name in called
  ]


def _explain_left_out(
  root: pathlib.Path, left_out: dict[str, tuple[pathlib.Path, ...]]
) -> list[str]:
  most = 3
  notes = []
  for why, files in left_out.items():
    names = [str(file.relative_to(root)) for file in files[:most]]
    more = f" and {len(files) - most} more" if len(files) > most else ""
    notes.append(f"left out, {why}: {len(files)} ({', '.join(names)}{more})")
  return notes


def _is_hidden(name: str) -> bool:
  return name.startswith(".") or name.lower() in _OF_SYSTEMS
