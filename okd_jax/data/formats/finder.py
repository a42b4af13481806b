"""Finds which pictures of a folder belong to which split and class."""

from collections.abc import Iterator
import dataclasses
import pathlib
import re
import unicodedata

from okd_jax.data.formats import index, walk
from okd_jax.errors import DataError
from okd_jax.storage import paths
from okd_jax.storage.paths import Path

# Splits; the pictures of a folder without splits are all of `ALL`.
TRAIN, VALIDATION, TEST, ALL = "train", "validation", "test", "all"
# What people call them, in small letters, without what `role_of` takes away.
_NAMES = {
  TRAIN: frozenset("train training trn".split()),
  VALIDATION: frozenset("val valid validation validate dev".split()),
  TEST: frozenset("test testing tst".split()),
}
_ENDING = re.compile(r"(set|data|split|images|imgs)?$")

STRAY = "outside of the folders of classes"

# Names of files by class.
Classes = dict[str, list[str]]


@dataclasses.dataclass(frozen=True)
class Found:
  """The pictures of a folder, in alphabetical order; names as in `walk.Seen`.

  Attributes:
    seen: all files of the folder.
    splits: names by split and class: only `ALL`, or `TRAIN` first.
    folders: the name of the folder of each split, "" for `ALL`.
    left_out: files and folders that are not used, by reason.
    notes: sentences about what users may not expect.
  """

  seen: walk.Seen
  splits: dict[str, Classes]
  folders: dict[str, str]
  left_out: dict[str, tuple[Path, ...]]
  notes: tuple[str, ...]

  @property
  def root(self) -> Path:
    """The folder."""
    return self.seen.root

  @property
  def class_names(self) -> tuple[str, ...]:
    """Names of the classes, in the order of their labels."""
    return tuple(next(iter(self.splits.values())))

  @property
  def files(self) -> Iterator[str]:
    """The names of the pictures of all splits."""
    return (
      file
      for classes in self.splits.values()
      for group in classes.values()
      for file in group
    )


def find(path: str) -> Found:
  """Finds the pictures of a folder, by its index if there is one.

  The structure is PATH/train/CLASS/**, with folders for validation and test
  beside it, or PATH/CLASS/**. Without a test folder, a validation folder is the
  test split.

  Raises:
    DataError: if the folder has another structure, or its index is stale.
  """
  root = paths.anywhere(path)
  seen = index.pictures(root)
  notes: list[str] = []
  if seen:
    notes.append(f"The list of pictures is that of {root / walk.INDEX}.")
  else:
    seen = _look(root)
  tops = _by_folder(seen, "", seen.names)
  roles = _roles(root, tops)
  _require_no_lost_folder(seen, roles)
  if not roles:
    folders, used = {ALL: ""}, {ALL: tops}
    _require_classes(seen, "", tops)
    notes += [*_class_called_train(tops), *_splits_inside(tops)]
  else:
    folders = {role: roles[role] for role in _NAMES if role in roles}
    if TEST not in folders and VALIDATION in folders:
      folders[TEST] = folders.pop(VALIDATION)
      notes.append(
        f"{folders[TEST]} is the test split, as there is no other; best is "
        "chosen on it."
      )
    used = {r: _by_folder(seen, n, tops[n]) for r, n in folders.items()}
    for role, name in folders.items():
      if role == TRAIN or not used[role]:
        _require_classes(seen, name, used[role])
    _require_same_classes(root, used, folders)
    for role, name in folders.items():
      _require_classes(seen, name, used[role])
  kept = {file for c in used.values() for files in c.values() for file in files}
  names = dict(seen.left_out)
  names[STRAY] = [file for file in seen.names if file not in kept]
  names = {why: found for why, found in names.items() if found}
  notes += _explain_left_out(names)
  left_out = {
    why: tuple(root / name for name in found) for why, found in names.items()
  }
  return Found(seen, used, folders, left_out, tuple(notes))


def _look(root: Path) -> walk.Seen:
  there = not isinstance(root, pathlib.Path) or root.is_dir()
  seen = walk.look(root) if there else None
  # There are no empty folders in buckets.
  if seen is None or not (isinstance(root, pathlib.Path) or seen.names):
    raise DataError(
      f"{root} is not a folder; one with train/CLASS/* and test/CLASS/*, or "
      "with CLASS/*, was expected. Correct the path; if the pictures of a run "
      "have moved, --data=PATH says where they are now."
    )
  return seen


def _by_folder(seen: walk.Seen, inside: str, names: list[str]) -> Classes:
  """Names by the folder directly below a folder; empty folders too."""
  start = len(inside) + 1 if inside else 0
  groups: Classes = {
    name[start:]: []
    for name in sorted(seen.folders)
    if len(name) > start
    and name.startswith(f"{inside}/" if inside else "")
    and "/" not in name[start:]
  }
  for name in names:
    top, divided, _ = name[start:].partition("/")
    if divided:
      groups[top].append(name)
  return groups


def _roles(root: Path, tops: Classes) -> dict[str, str]:
  """The folders of the splits; none if all folders are classes.

  A folder called train is a class if there are folders beside it that are not
  splits, unless there is another split, too, and both are divided into classes.
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
    if all(_is_divided(tops[name]) for name in names)
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
  """The split that a name stands for; None if it stands for none."""
  letters = re.sub(r"[^a-z]", "", name.lower())
  base = _ENDING.sub("", letters) or letters
  return next((r for r, names in _NAMES.items() if base in names), None)


def _is_divided(names: list[str]) -> bool:
  """Whether all pictures are in subfolders."""
  return bool(names) and all(name.count("/") > 1 for name in names)


def _require_classes(seen: walk.Seen, inside: str, classes: Classes) -> None:
  """Refuses a folder without two folders of classes, each with pictures."""
  empty = [name for name, files in classes.items() if not files]
  if len(classes) >= 2 and not empty:
    return
  folder = seen.root / inside
  flat = sum(name.rpartition("/")[0] == inside for name in seen.names)
  count = f"{len(classes) or 'no'} class folder{'s' * (len(classes) != 1)}"
  count += f" but {flat} picture{'s' * (flat != 1)}" if flat else ""
  count += f", and no images in {', '.join(empty)}" if empty else ""
  remedy = "Add pictures, or move folders that are no classes elsewhere."
  (only,) = classes if len(classes) == 1 and not empty else ("",)
  if only and not inside and _is_divided(classes[only]):
    remedy = (
      f"If the classes are in {folder / only}, set config.data.name=folder:"
      f"{folder / only}."
    )
  elif only or (flat and len(classes) - len(empty) < 2):
    remedy = (
      "Put the pictures of each class into a folder of their own, "
      f"{folder / 'CLASS'}; classes are known by folders only."
    )
  raise DataError(
    f"{folder} has {count}; at least two classes were expected, each with "
    f"pictures that Pillow reads. {remedy}"
  )


def _require_no_lost_folder(seen: walk.Seen, roles: dict[str, str]) -> None:
  """Refuses broken links among the folders of splits or classes."""
  places = {"", *roles.values()}
  # Indices of earlier releases do not tell links to nothing.
  for name in seen.left_out.get(walk.BROKEN, ()):
    if name.rpartition("/")[0] in places:
      raise DataError(
        f"{seen.root / name} is a link to nothing, and may have been a folder "
        "of pictures. Mend the link, or remove it."
      )


def _require_same_classes(
  root: Path, splits: dict[str, Classes], folders: dict[str, str]
) -> None:
  names = set(splits[TRAIN])
  for role, classes in splits.items():
    if odd := sorted(set(classes) ^ names):
      raise DataError(
        f"{root} has the classes {', '.join(odd)} in one split only"
        f"{_look_alike(odd)}; {folders[role]} must have the same class folders "
        f"as {folders[TRAIN]}. Add pictures of them, rename them if they are "
        "the same by another name, or move them elsewhere."
      )


def _look_alike(names: list[str]) -> str:
  """Which names are the same to people but not to the file system."""
  same: dict[str, list[str]] = {}
  for name in names:
    form = unicodedata.normalize("NFC", name).casefold()
    same.setdefault(form, []).append(ascii(name))
  found = [" and ".join(group) for group in same.values() if len(group) > 1]
  if not found:
    return ""
  return (
    f" ({', '.join(found)} differ in capitals or in how letters are stored)"
  )


def _splits_inside(classes: Classes) -> list[str]:
  """Notes for CLASS/train/*, which is another structure than train/CLASS/*."""
  inside = sorted(
    {
      "/".join(file.split("/")[:2])
      for files in classes.values()
      for file in files
      if file.count("/") > 1 and role_of(file.split("/")[1])
    }
  )
  if not inside:
    return []
  more = f" and {len(inside) - 1} more" if len(inside) > 1 else ""
  return [
    f"{inside[0]}{more} named like a split belong to the class that they are "
    "in; splits are folders around those of the classes, as train/CLASS."
  ]


def _class_called_train(tops: Classes) -> list[str]:
  return [
    f"{name} is taken as a class, as other classes are beside it."
    for name in tops
    if role_of(name)
  ]


def _explain_left_out(left_out: dict[str, list[str]]) -> list[str]:
  most = 3
  notes = []
  for why, files in left_out.items():
    names = ", ".join(files[:most])
    more = f" and {len(files) - most} more" if len(files) > most else ""
    notes.append(f"left out, {why}: {len(files)} ({names}{more})")
  return notes
