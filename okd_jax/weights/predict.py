"""Predicts for image files with a run's leader or an exported network."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from okd_jax import tasks
from okd_jax.data.formats import walk
from okd_jax.devices import host
from okd_jax.errors import DataError
from okd_jax.runs import run as run_lib
from okd_jax.storage import files as storage
from okd_jax.storage.paths import Path
from okd_jax.tasks.asking import Asking, Question
from okd_jax.weights import export, exported

_BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Network:
  """A network that predicts.

  Attributes:
    asking: prepares images for the network and reads its logits, as its task
      defines it.
    apply: function from inputs, float32 [N, H, W, c] in [0, 1], to logits
      [N, *out].
  """

  asking: Asking
  apply: Callable[[np.ndarray], Any]


def predict(
  target: Path,
  paths: Iterable[Path],
  top: int = 5,
  boxes: Path | None = None,
) -> list[dict[str, Any]]:
  """Predicts for images with a network.

  Images may have any size and mode; they are converted to the channels of the
  training images. For classification, an image is resized to the network's
  input; if the network was trained on crops of random size, its centre is
  taken. For keypoints, a crop is made around each box or, without boxes, of the
  whole image.

  Args:
    target: a work directory or an exported network.
    paths: image files, and folders that are searched for image files.
    top: for classification, how many classes to give for each image.
    boxes: for keypoints, a file of COCO annotations or detections with boxes
      around the people or objects.

  Returns:
    For each image a dict with `image`, its path, and `predictions`: see
    `okd_jax.tasks.class_answers` for classification and
    `okd_jax.tasks.keypoint_answers` for keypoints. For a file that cannot be
    used, a dict with `image` and `error`, the reason.

  Raises:
    ConfigError: if `target` is no run, or if its task does not use boxes.
    CheckpointError: if the run has no verified checkpoint.
    LeaderError: if `target` is a damaged export.
    DataError: if a path holds no image, or if the boxes are wrong.
  """
  (results,) = ask([open_network(target, top, boxes)], find(paths))
  return results


def open_network(
  target: Path, top: int = 5, boxes: Path | None = None
) -> Network:
  """Opens a network; arguments and errors as for `predict`."""
  if storage.exists(target / exported.CARD):
    # Cards of earlier releases have no entries for task and EXIF.
    card = exported.read_card(target)
    card.setdefault("task", "classification")
    card.setdefault("exif", False)
    apply, variables = exported.load_leader(target)
  else:
    run = run_lib.run(target)
    card = export.describe(run)
    apply, variables = export.function(run)
  asking = tasks.load(card["task"]).asking(card, top=top, boxes=boxes)
  logits_of = jax.jit(apply)
  variables = jax.device_put(variables)
  return Network(asking, lambda inputs: logits_of(variables, inputs))


def ask(
  networks: Sequence[Network],
  files: Sequence[Path],
  progress: Callable[[int], None] = lambda count: None,
) -> list[list[dict[str, Any]]]:
  """Predicts for image files with several networks; reads each file once.

  Args:
    networks: networks that prepare images alike: of runs that differ only in
      their seed.
    files: the image files.
    progress: called with the number of images processed since the last call.

  Returns:
    For each network, the results as from `predict`.
  """
  results: list[list[dict[str, Any]]] = [[] for _ in networks]
  asking = networks[0].asking
  tried = host.in_threads(
    lambda numbered: _try(asking, *numbered),
    enumerate(files, 1),
    ahead=2 * _BATCH_SIZE,
    size=lambda numbered: _num_views(asking, numbered[1]),
  )
  for part in _parts(tried):
    questions = [asked for asked in part if isinstance(asked, Question)]
    for network, found in zip(networks, results, strict=True):
      answers = _answers(network, questions)
      for asked in part:
        file = files[len(found)]
        about = (
          {"predictions": next(answers)}
          if isinstance(asked, Question)
          else {"error": asked}
        )
        found.append({"image": str(file)} | about)
    progress(len(part))
  return results


def find(paths: Iterable[Path]) -> list[Path]:
  """Returns the given files, with all image files below a folder in its place.

  Raises:
    DataError: if a path does not exist, or a folder holds no image.
  """
  files: list[Path] = []
  for path in paths:
    if path.is_dir():
      below, left_out = walk.below([path])
      if not below:
        foreign = len(left_out[walk.FOREIGN])
        raise DataError(
          f"{path} holds no image, but {foreign} other files; give a folder "
          "with images."
        )
      files += below
    elif path.is_file():
      files.append(path)
    else:
      raise DataError(f"{path} does not exist; give an image or a folder.")
  return files


def _parts(tried: Iterable[Question | str]) -> Iterator[list[Question | str]]:
  """Parts with enough views for a batch."""
  part: list[Question | str] = []
  count = 0
  for asked in tried:
    part.append(asked)
    count += len(asked.views) if isinstance(asked, Question) else 1
    if count >= _BATCH_SIZE:
      yield part
      part, count = [], 0
  if part:
    yield part


def _answers(network: Network, questions: Sequence[Question]) -> Iterator[Any]:
  if not questions:
    return
  views = np.concatenate([question.views for question in questions])
  inputs_each = len(network.asking.inputs(views[:1]))
  count = _BATCH_SIZE // inputs_each
  logits = np.concatenate(
    [
      _logits(network, views[start : start + count])
      for start in range(0, len(views), count)
    ]
  )
  ends = np.cumsum([len(question.views) for question in questions])
  parts = np.split(logits, ends[:-1] * inputs_each)
  for question, part in zip(questions, parts, strict=True):
    yield network.asking.answer(question, part)


def _logits(network: Network, views: np.ndarray) -> np.ndarray:
  # Padded to a power of two, as a program is compiled for every size.
  size = 1 << (len(views) - 1).bit_length()
  missing = np.zeros((size - len(views), *views.shape[1:]), views.dtype)
  inputs = network.asking.inputs(np.concatenate([views, missing]))
  used = len(inputs) * len(views) // size
  return np.asarray(network.apply(inputs))[:used]


def _num_views(asking: Asking, file: Path) -> int:
  try:
    return asking.num_views(file)
  except DataError:  # `_try` says why
    return 1


def _try(asking: Asking, number: int, file: Path) -> Question | str:
  """The network's input for a file, or the reason why there is none."""
  try:
    return asking.question(file, number)
  except DataError as error:
    return str(error)
