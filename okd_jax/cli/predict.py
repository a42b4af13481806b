"""Predict for images with a run's leader or an exported network."""

import argparse
from collections.abc import Sequence
import itertools
import os
import pathlib
from typing import Any

from PIL import Image, PngImagePlugin

from okd_jax.cli import common, places
from okd_jax.errors import ConfigError, DataError
from okd_jax.runs import display
from okd_jax.storage import files as storage, strict_json
from okd_jax.storage.paths import Path
from okd_jax.tasks.asking import Asking
from okd_jax.weights import exported, predict

# What a drawing says of itself, so that nothing else is ever replaced.
_SOFTWARE = {"Software": "okd_jax"}


def add_arguments(command: argparse.ArgumentParser) -> None:
  """Adds the arguments of the command."""
  command.add_argument(
    "target",
    type=places.place,
    metavar="WORKDIR|LEADER",
    help="work directory of a run or of the runs of several seeds, or an "
    "exported folder",
  )
  command.add_argument(
    "images",
    type=places.path,
    nargs="+",
    metavar="IMAGE",
    help="image files, or folders of them",
  )
  command.add_argument(
    "--boxes",
    type=places.path,
    metavar="FILE",
    help="for keypoints: file of COCO annotations or detections that says "
    "where the figures are",
  )
  command.add_argument(
    "--to",
    type=places.to_write(places.path, folder=False),
    metavar="FILE",
    help="write a JSON file; for keypoints in the format of COCO results",
  )
  command.add_argument(
    "--draw",
    type=places.to_write(places.path, folder=True),
    metavar="DIR",
    help="for keypoints: write the pictures with the predicted figures",
  )
  common.add_seed(command)
  common.add_json(command)


def run(args: argparse.Namespace) -> None:
  """Runs the command.

  Raises:
    ConfigError: if several networks would write the same file, or if a drawing
      cannot be made, would replace a file that is not a drawing, or would lie
      among the pictures of a folder.
    DataError: naming the files that cannot be used, after all others are done.
  """
  target: Path = args.target
  targets = [target]
  if args.seed is not None or not storage.exists(target / exported.CARD):
    targets = common.runs(target, args.seed)
  if len(targets) > 1 and (args.to or args.draw):
    raise ConfigError(
      f"{target} holds runs of {len(targets)} seeds, and --to and --draw are "
      "for one; choose it by --seed=K."
    )
  networks = [predict.open_network(each, boxes=args.boxes) for each in targets]
  files = predict.find(args.images)
  first = networks[0].asking
  drawings = []
  if args.draw:
    _require_apart(args.draw, args.images)
    drawings = _drawings(first, files, args.draw)
  with display.progress("pictures", len(files)) as progress:
    results = predict.ask(networks, files, progress)
  if args.draw:
    _draw(first, results[0], drawings)
  if args.to:
    content = strict_json.text(first.document(results[0])) + "\n"
    storage.make_folder(args.to.parent)
    storage.write(args.to, content)
  if args.json:
    by_name = {
      each.name: result for each, result in zip(targets, results, strict=True)
    }
    common.print_json(results[0] if len(targets) == 1 else by_name)
  else:
    for each, result in zip(targets, results, strict=True):
      _show(f"Predictions of {each}", first, result)
  bad = [result["error"] for result in results[0] if "error" in result]
  if bad:
    listed = "\n  ".join(bad)
    raise DataError(
      f"{len(bad)} of {len(results[0])} files gave none:\n  {listed}"
    )


def _show(
  title: str, asking: Asking, results: Sequence[dict[str, Any]]
) -> None:
  rows = [
    (result["image"], *cells)
    for result in results
    if "predictions" in result
    for cells in asking.cells(result["predictions"])
  ]
  if rows:
    display.table(title, ["image", *asking.heads], rows)


def _require_apart(folder: pathlib.Path, images: Sequence[Path]) -> None:
  """Refuses a folder in which the next call would ask about the drawings."""
  place = pathlib.Path(os.path.realpath(folder))
  for searched in images:
    if searched.is_dir() and place.is_relative_to(os.path.realpath(searched)):
      raise ConfigError(
        f"--draw={folder} lies in {searched}, where the next call would take "
        "the drawings for pictures; choose another folder."
      )


def _drawings(
  asking: Asking, files: Sequence[Path], folder: pathlib.Path
) -> list[pathlib.Path]:
  """The path of the drawing of each file, all of them different.

  Raises:
    ConfigError: if nothing is drawn, or if one would replace another file.
  """
  asking.require_drawing()
  asked = {os.path.realpath(file) for file in files}
  drawings: dict[pathlib.Path, None] = {}
  for file in files:
    # Files of several folders may have the same name.
    others = (f"{file.stem}_{number}" for number in itertools.count(2))
    names = itertools.chain([file.stem], others)
    made = (folder / f"{name}.png" for name in names)
    place = next(place for place in made if place not in drawings)
    drawings[place] = None
    if os.path.realpath(place) in asked or not _is_free(place):
      raise ConfigError(
        f"--draw={folder} would replace {place}, which is no drawing of an "
        "earlier call; choose another folder."
      )
  return list(drawings)


def _is_free(place: pathlib.Path) -> bool:
  """Whether the path is free, or holds a drawing."""
  if not os.path.lexists(place):
    return True
  try:
    with Image.open(place, formats=["PNG"]) as image:
      return _SOFTWARE.items() <= image.info.items()
  except OSError:
    return False


def _draw(
  asking: Asking,
  results: Sequence[dict[str, Any]],
  drawings: Sequence[pathlib.Path],
) -> None:
  about = PngImagePlugin.PngInfo()
  for key, text in _SOFTWARE.items():
    about.add_text(key, text)
  for result, place in zip(results, drawings, strict=True):
    if "predictions" in result:
      place.parent.mkdir(parents=True, exist_ok=True)
      drawn = asking.draw(pathlib.Path(result["image"]), result["predictions"])
      drawn.save(place, pnginfo=about)
