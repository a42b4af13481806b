"""Show what training would use of a folder of images or annotated joints."""

import argparse
from collections.abc import Sequence
import dataclasses
from typing import Any, TYPE_CHECKING

import numpy as np

from okd_jax import data, rules
from okd_jax.cli import common, copy_data, keypoint_data, places
from okd_jax.data.augmentation import Augment
from okd_jax.data.config import KEYPOINTS, Keypoints
from okd_jax.errors import ConfigError, DataError
from okd_jax.runs import display
from okd_jax.storage import paths

if TYPE_CHECKING:
  # Pillow, which it needs, is imported where it is used.
  from okd_jax.data.formats.folder import FolderReport

# Keys that change which pictures are used, or how.
_KEYS = {
  "data": (
    "source",
    "image_size",
    "test_fraction",
    "validation",
    "train_examples",
    "flip",
    "exif",
    "per_class",
  ),
  "data.keypoints": ("width", "scale", "rotation", "sigma"),
  "augment": tuple(field.name for field in dataclasses.fields(Augment)),
}
_MOST_SIZES = 10


def add_arguments(command: argparse.ArgumentParser) -> None:
  """Adds the arguments of the command."""
  command.add_argument(
    "path",
    metavar="PATH",
    help="folder of images, as after 'folder:'; or keypoints:PATH; or a copy "
    "of TensorFlow Datasets",
  )
  command.add_argument(
    "--index",
    action="store_true",
    help="write an index of the files into the folder, so that runs need not "
    "list them when they start; also for a copy of TensorFlow Datasets",
  )
  command.add_argument(
    "--show",
    type=_png,
    metavar="FILE.png",
    help="draw some pictures of each class as a network sees them in training",
  )
  kinds = (data.Config, Keypoints, Augment)
  for (section, keys), kind in zip(_KEYS.items(), kinds, strict=True):
    for field in dataclasses.fields(kind):
      if field.name in keys:
        command.add_argument(
          f"--config.{section}.{field.name}",
          dest=f"{section}.{field.name}",
          type=_READ.get(type(field.default), type(field.default)),
          help="as for main.py",
        )
  common.add_json(command)


def run(args: argparse.Namespace) -> None:
  """Runs the command.

  Raises:
    ConfigError: for a flag that the data have no use for, or a setting that
      training would refuse as well.
    DataError: for data that training would refuse as well.
  """
  from okd_jax.data import sheet
  from okd_jax.data.formats import folder, index, walk

  how = Augment(**_given(args, "augment"))
  rules.check(how, "config.augment")
  if args.path.startswith(KEYPOINTS):
    if args.index:
      raise ConfigError(
        f"--index is for folders of pictures and copies of TensorFlow Datasets;"
        f" {args.path} names its pictures itself. Leave it out."
      )
    of_joints = data.check(
      {"name": args.path, "image_size": 256}
      | _given(args, "data")
      | {"keypoints": _given(args, "data.keypoints")}
    )
    keypoint_data.run(of_joints, how, args.show, as_json=args.json)
    return
  path = args.path.removeprefix("folder:")
  if copy_data.is_copy(path):
    _require_none_of_pictures(args)
    copy_data.run(path, write_index=args.index, as_json=args.json)
    return
  if joints := _flags(args, "data.keypoints"):
    raise ConfigError(
      f"{', '.join(joints)} is for keypoints; {args.path} is a folder of "
      "images with classes. Leave it out, or give keypoints:PATH."
    )
  config = data.check({"name": f"folder:{path}", **_given(args, "data")})
  if args.index:
    index.remove(paths.anywhere(path))
  used, notes = _division(config, path)
  report = folder.check_folder(path, exif=config.exif, write_index=args.index)
  if args.json:
    common.print_json(_as_json(report, used, notes))
  else:
    _show(path, report, used, notes)
  if report.damaged:
    raise DataError(
      f"{len(report.damaged)} file(s) in {path} are damaged; replace or remove "
      "them."
    )
  if args.index and not args.json:
    print(f"The index is in {paths.anywhere(path) / walk.INDEX}.")
  if args.show:
    sheet.write(config, args.show, how)
    if not args.json:
      print(f"What a network sees is in {args.show}.")


def _require_none_of_pictures(args: argparse.Namespace) -> None:
  """Refuses flags that say nothing of a copy of TensorFlow Datasets."""
  # For the source an index is written.
  flags = [
    flag
    for section in _KEYS
    for flag in _flags(args, section)
    if flag != "--config.data.source"
  ]
  if flags := flags + ["--show"] * bool(args.show):
    raise ConfigError(
      f"{', '.join(flags)} is for folders of pictures and for keypoints; "
      f"{args.path} is a copy of TensorFlow Datasets, whose images are counted "
      "alone. Leave it out."
    )


def _flags(args: argparse.Namespace, section: str) -> list[str]:
  """The flags that the command line gives of a section."""
  return [f"--config.{section}.{key}" for key in _given(args, section)]


def _division(
  config: data.Config, path: str
) -> tuple[dict[str, int], tuple[str, ...]]:
  """How many examples of each split training uses, and notes; not decoded."""
  from okd_jax.data.formats import finder, listing, tfds as prepared

  found = finder.find(path)
  listed = listing.of_found(
    config.name, found, config.image_size, config.test_fraction
  )
  if config.source != "stream":
    size = config.image_size
    for part in (listed.train, listed.test):
      prepared.allocate(path, (len(part.labels), size, size, 3))
  positions = data.division(config, listed)
  used = {
    split: len(positions[split]) for split in ("train", "validation", "test")
  }
  return used, (*listed.notes, *data.untested(listed))


def _png(text: str) -> paths.Path:
  path = places.to_write(places.path, folder=False)(text)
  if path.suffix.lower() != ".png":
    raise argparse.ArgumentTypeError(f"{path} must be a file that ends in .png")
  return path


def _given(args: argparse.Namespace, section: str) -> dict[str, Any]:
  """What the command line says of a section."""
  given = {key: getattr(args, f"{section}.{key}") for key in _KEYS[section]}
  return {key: value for key, value in given.items() if value is not None}


def _numbers(text: str) -> tuple[float, ...]:
  return tuple(float(word) for word in text.strip("()").split(",") if word)


def _flag(text: str) -> bool:
  if text.lower() not in ("true", "false"):
    raise argparse.ArgumentTypeError(f"{text!r} must be true or false")
  return text.lower() == "true"


# How values are read that are not numbers or texts.
_READ: dict[type, Any] = {bool: _flag, tuple: _numbers}


def _as_json(
  report: "FolderReport", used: dict[str, int], notes: Sequence[str]
) -> dict[str, Any]:
  return {
    "counts": report.counts,
    "used": used,
    "imbalance": report.imbalance,
    "sizes": {f"{w}x{h}": count for (w, h), count in _sizes(report)},
    "size": _extent(report),
    "damaged": {str(path): why for path, why in report.damaged.items()},
    "duplicates": [list(map(str, group)) for group in report.duplicates],
    "across": [list(map(str, group)) for group in report.across],
    "left_out": {
      why: list(map(str, files)) for why, files in report.left_out.items()
    },
    "notes": list(notes),
  }


def _sizes(report: "FolderReport") -> list[tuple[tuple[int, int], int]]:
  return sorted(report.sizes.items(), key=lambda item: -item[1])


def _extent(report: "FolderReport") -> dict[str, list[int]]:
  """Smallest, median and largest width and height."""
  if not report.sizes:
    return {}
  sizes = np.repeat(
    np.array(list(report.sizes)), list(report.sizes.values()), axis=0
  )
  return {
    "min": sizes.min(0).tolist(),
    "median": np.median(sizes, axis=0).astype(int).tolist(),
    "max": sizes.max(0).tolist(),
  }


def _show(
  path: str,
  report: "FolderReport",
  used: dict[str, int],
  notes: Sequence[str],
) -> None:
  classes = {name: None for split in report.counts.values() for name in split}
  rows = [
    (name, *(split.get(name, 0) for split in report.counts.values()))
    for name in classes
  ]
  totals = (sum(split.values()) for split in report.counts.values())
  display.table(
    f"Images in {path}",
    ["class", *report.counts],
    [*rows, ("total", *totals)],
  )
  division = ", ".join(
    f"{n or 'none'} for {split}" for split, n in used.items()
  )
  extent = {
    what: f"{width} x {height}"
    for what, (width, height) in _extent(report).items()
  }
  display.table(
    f"What training uses of {path}",
    ["what", "value"],
    [
      ("division", division),
      ("most frequent class to rarest", f"{report.imbalance:.1f} to 1"),
      *((f"size, {what}", text) for what, text in extent.items()),
      *(("note", note) for note in notes),
    ],
  )
  sizes = _sizes(report)
  display.table(
    f"Sizes, {len(sizes)} in all",
    ["width x height", "images"],
    [(f"{w} x {h}", str(count)) for (w, h), count in sizes[:_MOST_SIZES]],
  )
  for group in report.duplicates:
    where = " (in several splits or classes)" if group in report.across else ""
    print(f"Equal files: {', '.join(map(str, group))}{where}")
  for file, reason in report.damaged.items():
    print(f"Damaged: {file}: {reason}")
