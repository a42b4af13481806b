"""Check a folder of images: counts, sizes, damaged, duplicate files."""

import argparse

from okd_jax.cli import common
from okd_jax.data.formats import folder
from okd_jax.errors import DataError
from okd_jax.runs import display

_MOST_SIZES = 10


def add_arguments(command: argparse.ArgumentParser) -> None:
  """Adds what the command takes."""
  command.add_argument("path", metavar="PATH", help="as after 'folder:'")
  common.add_json(command)


def run(args: argparse.Namespace) -> None:
  """Runs the command.

  Raises:
    DataError: if a file is damaged.
  """
  report = folder.check_folder(args.path.removeprefix("folder:"))
  if args.json:
    _print_json(report)
  else:
    _show(args.path, report)
  if report.damaged:
    raise DataError(
      f"{len(report.damaged)} file(s) in {args.path} are damaged; replace or "
      "remove them."
    )


def _print_json(report: folder.FolderReport) -> None:
  common.print_json(
    {
      "counts": report.counts,
      "sizes": {f"{w}x{h}": count for (w, h), count in _sizes(report)},
      "damaged": {str(path): why for path, why in report.damaged.items()},
      "duplicates": [list(map(str, group)) for group in report.duplicates],
    }
  )


def _sizes(report: folder.FolderReport) -> list[tuple[tuple[int, int], int]]:
  """Width and height of images and their number, the most frequent first."""
  return sorted(report.sizes.items(), key=lambda item: -item[1])


def _show(path: str, report: folder.FolderReport) -> None:
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
  sizes = _sizes(report)
  display.table(
    f"Sizes, {len(sizes)} in all",
    ["width x height", "images"],
    [(f"{w} x {h}", count) for (w, h), count in sizes[:_MOST_SIZES]],
  )
  for group in report.duplicates:
    print(f"Equal files: {', '.join(map(str, group))}")
  for file, why in report.damaged.items():
    print(f"Damaged: {file}: {why}")
