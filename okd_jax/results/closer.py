"""Results of `eval --per-class` for each class, as values and as files."""

import base64
from collections.abc import Mapping, Sequence
import dataclasses
import io
import json
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from okd_jax.results import classes, formats
from okd_jax.results.classes import ByClass, Reliability
from okd_jax.results.formats import Table
from okd_jax.storage import files
from okd_jax.storage.paths import Path
from okd_jax.tasks.figure import peer_index
from okd_jax.training.closely import Seen

_FILE = "per_class.json"
_MOST = 20
_SIDE = 96


class Wrong(NamedTuple):
  """A mistake of the leader.

  Attributes:
    place: of the example in the data, `Batch.index`.
    label: its true class.
    taken_for: the class that the leader predicted.
    confidence: probability that the leader gave to that class.
    file: of the image, relative to the folder of the data; "" if unknown.
  """

  place: int
  label: int
  taken_for: int
  confidence: float
  file: str = ""


@dataclasses.dataclass(frozen=True)
class Closer:
  """A closer look at the leader of a run, and at its peers.

  Attributes:
    about: the run and split, for titles.
    names: names of the C classes.
    matrix: confusion matrix of the leader, int [C, C]; see
      `classes.confusion`.
    reliability: reliability of "leader" and, of several peers, "ensemble".
    peers: names of the P peers.
    agreement: agreement of the peers, float [P, P]; see `classes.agreement`.
    wrong: all mistakes of the leader, the most confident first.
    images: PNG images of the first of these mistakes.
  """

  about: str
  names: Sequence[str]
  matrix: np.ndarray
  reliability: Mapping[str, Reliability]
  peers: Sequence[str]
  agreement: np.ndarray
  wrong: Sequence[Wrong]
  images: Sequence[bytes]

  @property
  def by_class(self) -> ByClass:
    """Figures of each class."""
    return classes.by_class(self.matrix)

  def tables(self) -> list[Table]:
    """Tables of classes, confusions and, of several peers, agreement."""
    found = self.by_class
    columns = (found.accuracy, found.precision, found.recall)
    made = [
      Table(
        f"Classes, {self.about}",
        ["class", "images", "accuracy", "precision", "recall"],
        [
          [name, str(found.count[i]), *(_percent(c[i]) for c in columns)]
          for i, name in enumerate(self.names)
        ],
        [
          "Accuracy is how often the leader is right about whether an image "
          "belongs to the class."
        ],
      ),
      Table(
        f"Most frequent confusions, {self.about}",
        ["is", "taken for", "images", "of the class"],
        [
          [
            self.names[a],
            self.names[b],
            str(count),
            _percent(count / found.count[a]),
          ]
          for a, b, count in classes.frequent(self.matrix, _MOST)
        ],
      ),
    ]
    if len(self.peers) > 1:
      rows = zip(self.peers, self.agreement, strict=True)
      made.append(
        Table(
          "Images that two peers take for the same class",
          ["peer", *self.peers],
          [[name, *map(_percent, row)] for name, row in rows],
        )
      )
    return made

  def as_json(self) -> dict[str, Any]:
    """Everything except the images."""
    found = self.by_class
    return {
      "about": self.about,
      "names": list(self.names),
      "classes": {
        name: {
          "count": int(found.count[i]),
          "accuracy": _number(found.accuracy[i]),
          "precision": _number(found.precision[i]),
          "recall": _number(found.recall[i]),
        }
        for i, name in enumerate(self.names)
      },
      "confusion": self.matrix.tolist(),
      "reliability": {
        who: {
          "count": each.count.tolist(),
          "confidence": list(map(_number, each.confidence)),
          "accuracy": list(map(_number, each.accuracy)),
        }
        for who, each in self.reliability.items()
      },
      "peers": list(self.peers),
      "agreement": self.agreement.tolist(),
      "wrong": [list(each) for each in self.wrong],
    }


def of(
  seen: Seen,
  names: Sequence[str],
  leader: int,
  about: str,
  image_names: Sequence[str],
) -> Closer:
  """Makes a closer look from the results of an evaluation.

  Args:
    seen: results of an evaluation with `per_class`, so with choices.
    names: names of the classes.
    leader: index of the peer that is deployed.
    about: the run and split, for titles.
    image_names: file of each example by its place; empty if unknown.
  """
  choices = seen.choices
  assert choices is not None, "needs an evaluation with per_class"
  label = np.asarray(choices.label)
  first, sure = np.asarray(choices.first), np.asarray(choices.confidence)
  right = first == label
  peers = [name for name in seen.names if peer_index(name) is not None]
  shown = {"leader": leader}
  if len(peers) > 1 and "ensemble" in seen.names:
    shown["ensemble"] = seen.names.index("ensemble")
  # The mistakes with images come first, so that they fit `images`.
  rows = [row for row, _ in seen.mistakes]
  others = np.flatnonzero(~right[leader])
  others = others[np.argsort(-sure[leader][others], kind="stable")]
  known = set(rows)
  rows += [int(row) for row in others if int(row) not in known]
  return Closer(
    about=about,
    names=names,
    matrix=classes.confusion(label, first[leader], len(names)),
    reliability={
      who: classes.reliability(sure[i], right[i]) for who, i in shown.items()
    },
    peers=peers,
    agreement=classes.agreement(first[: len(peers)]),
    wrong=[
      Wrong(
        index := int(choices.index[row]),
        int(label[row]),
        int(first[leader][row]),
        float(sure[leader][row]),
        image_names[index] if image_names else "",
      )
      for row in rows
    ],
    images=[thumbnail(image) for _, image in seen.mistakes],
  )


def write(found: Closer, folder: Path) -> list[Path]:
  """Writes confusion.csv, classes.csv, wrong.csv and per_class.json.

  Args:
    found: the closer look to write.
    folder: folder to write to; it is made if it does not exist.

  Returns:
    The files written.
  """
  files.make_folder(folder)
  by_class, names = found.by_class, found.names
  columns = (by_class.accuracy, by_class.precision, by_class.recall)
  tables = {
    "confusion.csv": Table(
      "",
      ["class", *names],
      [
        [name, *map(str, row)]
        for name, row in zip(names, found.matrix, strict=True)
      ],
    ),
    "classes.csv": Table(
      "",
      ["class", "count", "accuracy", "precision", "recall"],
      [
        [name, str(by_class.count[i]), *(_plain(c[i]) for c in columns)]
        for i, name in enumerate(names)
      ],
    ),
    "wrong.csv": Table(
      "",
      ["index", "class", "taken_for", "confidence", "file"],
      [
        [str(place), names[label], names[said], _plain(sure), file]
        for place, label, said, sure, file in found.wrong
      ],
    ),
  }
  content = found.as_json() | {
    "images": [base64.b64encode(image).decode() for image in found.images]
  }
  texts = {name: formats.as_csv(table) for name, table in tables.items()}
  texts[_FILE] = json.dumps(content) + "\n"
  for name, text in texts.items():
    files.write(folder / name, text)
  return [folder / name for name in texts]


def read(folder: Path) -> Closer | None:
  """Reads the files of `write`; None if there are none in the folder."""
  path = folder / _FILE
  if not files.exists(path):
    return None
  saved = json.loads(files.text(path))
  return Closer(
    about=saved["about"],
    # Files of earlier releases have names only as keys.
    names=saved.get("names", list(saved["classes"])),
    matrix=np.array(saved["confusion"]),
    reliability={
      who: Reliability(*(np.array(values, float) for values in each.values()))
      for who, each in saved["reliability"].items()
    },
    peers=saved["peers"],
    agreement=np.array(saved["agreement"]),
    wrong=[Wrong(*each) for each in saved["wrong"]],
    images=[base64.b64decode(image) for image in saved["images"]],
  )


def thumbnail(image: np.ndarray) -> bytes:
  """A small PNG of an image; tiny images are enlarged by a whole factor.

  Args:
    image: uint8 [H, W, 1] or [H, W, 3].
  """
  picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
  width, height = picture.size
  factor = _SIDE // max(width, height)
  if factor > 1:
    size = (factor * width, factor * height)
    picture = picture.resize(size, Image.Resampling.NEAREST)
  picture.thumbnail((_SIDE, _SIDE))
  content = io.BytesIO()
  picture.save(content, "PNG")
  return content.getvalue()


def _percent(value: float) -> str:
  return "-" if np.isnan(value) else f"{100 * value:.2f} %"


def _plain(value: float) -> str:
  return "" if np.isnan(value) else f"{value:.6f}"


def _number(value: float) -> float | None:
  return None if np.isnan(value) else float(value)
