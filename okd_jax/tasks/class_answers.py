"""The answers of a network about the class of a picture."""

import numpy as np

from okd_jax.tasks import asking


class Asking(asking.Asking):
  """Asks about whole pictures; an answer is the most probable classes.

  Each is a dict with "class" and "probability", the most probable one first.
  """

  def __init__(self, card, top: int):
    super().__init__(card)
    self._top = min(top, len(card["classes"]))
    self.heads = [str(place) for place in range(1, self._top + 1)]

  def question(self, file, number):
    del number
    # Decodes with Pillow, which is no part of the base install.
    from okd_jax.data import picture

    return asking.Question(file, picture.resized(file, self.card)[None])

  def answer(self, question, logits):
    # Not jax's, which takes longer for so few numbers than the network.
    (row,) = np.exp(logits - logits.max())
    row /= row.sum()
    return [
      {"class": self.card["classes"][i], "probability": float(row[i])}
      for i in np.argsort(-row, kind="stable")[: self._top]
    ]

  def cells(self, answer):
    return [
      [
        f"{guess['class']} {100 * guess['probability']:.2f} %"
        for guess in answer
      ]
    ]
