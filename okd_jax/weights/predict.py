"""Asks a run's leader, or an exported network, about image files."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from okd_jax import tasks
from okd_jax.data import images as pictures
from okd_jax.data.formats import finder
from okd_jax.errors import ConfigError, DataError
from okd_jax.runs import run as run_lib
from okd_jax.storage.paths import Path
from okd_jax.weights import export, exported as leader_lib

_BATCH_SIZE = 64


def predict(
  target: Path, paths: Iterable[Path], top: int = 5
) -> list[dict[str, Any]]:
  """Asks a network about images.

  An image of any size and mode is converted to the channels that the network
  was trained on and resized to its input; its centre is taken where training
  was on crops of random size.

  Args:
    target: a work directory or an exported network.
    paths: image files, and folders that are searched for image files.
    top: how many guesses to give.

  Returns:
    For each image its `image` (the path) and `predictions`, see
    `okd_jax.tasks.task.Task.answers`: for classification the most probable
    classes, most probable first, each with `class` and `probability`. For a
    file that cannot be decoded `image` and `error`, the reason.

  Raises:
    ConfigError: if target is no run, or of a task that looks at crops.
    LeaderError: if it is a damaged export.
    DataError: naming a path where no image is.
  """
  if (target / leader_lib.CARD).exists():
    card = _card(target)
    apply, variables = leader_lib.load_leader(target)
  else:
    run = run_lib.run(target)
    card = export.describe(run)
    apply, variables = export.function(run)
  task = tasks.load(card["task"])
  if task.asked_by_crops:
    raise ConfigError(
      f"{target} is a network for '{task.name}', which looks at crops around "
      "boxes and cannot be asked about whole pictures yet; measure it with "
      "`python -m okd_jax eval`, or export it and give it crops."
    )
  files = find(paths)
  logits_of = jax.jit(apply)
  variables = jax.device_put(variables)
  results: list[dict[str, Any]] = []
  for start in range(0, len(files), _BATCH_SIZE):
    part = [
      (file, *_try(file, card)) for file in files[start : start + _BATCH_SIZE]
    ]
    images = [image for _, image, _ in part if image is not None]
    answers = iter(())
    if images:
      logits = logits_of(variables, np.stack(images))
      answers = iter(task.answers(logits, card, top))
    for file, image, error in part:
      about = (
        {"error": error} if image is None else {"predictions": next(answers)}
      )
      results.append({"image": str(file)} | about)
  return results


def task_of(target: Path) -> type[tasks.Task]:
  """The task of a work directory or an exported network."""
  if (target / leader_lib.CARD).exists():
    return tasks.load(_card(target)["task"])
  return tasks.load(run_lib.about(target)[1].task)


def find(paths: Iterable[Path]) -> list[Path]:
  """The given files, and in the place of a folder all image files below it.

  Raises:
    DataError: if nothing is found at a path.
  """
  files: list[Path] = []
  for path in paths:
    if path.is_dir():
      below, left_out = finder.below([path])
      if not below:
        foreign = len(left_out[finder.FOREIGN])
        raise DataError(
          f"{path} holds no image, and {foreign} other files; give a folder "
          "that does."
        )
      files += below
    elif path.is_file():
      files.append(path)
    else:
      raise DataError(f"{path} does not exist; give an image or a folder.")
  return files


def read(file: Path, card: Mapping[str, Any]) -> np.ndarray:
  """Reads an image as float32 [H, W, c] in [0, 1], as a card asks for it.

  Raises:
    DataError: if the file cannot be decoded.
  """
  height, width, channels = card["image_shape"]
  take = pictures.center if card["resized_crop"] else pictures.whole
  try:
    pixels = take(
      file.read_bytes(),
      "L" if channels == 1 else "RGB",
      (height, width),
      exif=card["exif"],
    )
  except (OSError, pictures.Undecodable) as error:
    raise DataError(
      f"{file} cannot be decoded ({error}); replace it or leave it out."
    ) from error
  return pixels.astype(np.float32) / 255


def _try(file: Path, card: Mapping[str, Any]) -> tuple[np.ndarray | None, str]:
  """The image, or why there is none."""
  try:
    return read(file, card), ""
  except DataError as error:
    return None, str(error)


def _card(target: Path) -> dict[str, Any]:
  # Cards of earlier releases name no task, and say nothing of EXIF.
  before = {"task": "classification", "exif": False}
  return before | leader_lib.read_card(target)
