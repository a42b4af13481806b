"""How people ask a network about pictures: the contract of all tasks."""

import abc
from collections.abc import Mapping, Sequence
import dataclasses
from pathlib import Path
from typing import Any, TYPE_CHECKING, TypeAlias

import numpy as np

from okd_jax.errors import ConfigError

# Pillow is no part of the base install, where groups are trained as well.
if TYPE_CHECKING:
  from PIL import Image

  Picture: TypeAlias = Image.Image
else:
  Picture = Any


@dataclasses.dataclass(frozen=True)
class Question:
  """A picture as a network is asked about it.

  Attributes:
    file: of the picture.
    views: uint8 [N, H, W, c], what the network looks at.
    about: what the answer has to know of them.
  """

  file: Path
  views: np.ndarray
  about: Any = None


class Asking(abc.ABC):
  """What a network of one task is asked, and what it says.

  Attributes:
    card: of the network, see `okd_jax.weights.export.describe`.
    heads: of the columns of `cells`.
  """

  heads: Sequence[str]

  def __init__(self, card: Mapping[str, Any]):
    self.card = card

  def num_views(self, file: Path) -> int:
    """How many views the question about a picture has, told before it is read.

    Raises:
      DataError: if it cannot be asked about.
    """
    del file
    return 1

  @abc.abstractmethod
  def question(self, file: Path, number: int) -> Question:
    """Prepares a picture; called by several threads at once.

    Args:
      file: of the picture.
      number: of the picture among all that are asked about, from 1.

    Raises:
      DataError: if it cannot be asked about; the others still are.
    """

  def inputs(self, views: np.ndarray) -> np.ndarray:
    """What the network gets of N views.

    Returns:
      float32 [M, H, W, c] in [0, 1], equally many of each view, one view after
      another.
    """
    return views.astype(np.float32) / 255

  @abc.abstractmethod
  def answer(self, question: Question, logits: np.ndarray) -> Any:
    """What the network says about a picture, for people, as JSON values.

    Args:
      question: about it.
      logits: of the inputs that its views make, [M, *out].
    """

  @abc.abstractmethod
  def cells(self, answer: Any) -> Sequence[Sequence[str]]:
    """An answer as rows of cells of a table."""

  def document(self, results: Sequence[Mapping[str, Any]]) -> Any:
    """All results, as a file has them; as `predict` returns them by default."""
    return list(results)

  def require_drawing(self) -> None:
    """Raises ConfigError if answers are nothing that `draw` can show."""
    if type(self).draw is Asking.draw:
      raise ConfigError(
        f"a network for '{self.card['task']}' says nothing that can be drawn "
        "into a picture; leave --draw out."
      )

  def draw(self, file: Path, answer: Any) -> Picture:
    """The picture with the answer in it, where a task has such pictures."""
    raise NotImplementedError
