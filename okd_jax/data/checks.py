"""Checks of examples with classes, wherever they were read from."""

import numpy as np

from okd_jax.errors import ConfigError, DataError


def check_every_class(
  name: str, labels: np.ndarray, class_names: tuple[str, ...]
) -> None:
  """Refuses training labels [N] in which a class is missing.

  Raises:
    DataError: naming the missing classes.
  """
  counts = np.bincount(labels, minlength=len(class_names))
  if not counts.all():
    missing = [class_names[c] for c in np.flatnonzero(counts == 0)]
    raise DataError(
      f"{name}/train has no example of {len(missing)} of its "
      f"{len(class_names)} classes: {', '.join(missing[:10])}; every class "
      "needs one at least. Add examples or remove the class."
    )


def check_draws(
  name: str, labels: np.ndarray, class_names: tuple[str, ...], per_class: int
) -> None:
  """Refuses labels [N] to train on with too few of a class for a draw.

  Raises:
    DataError: naming the first of these classes.
  """
  sizes = np.bincount(labels, minlength=len(class_names))
  lacking = np.flatnonzero(sizes < per_class)
  if len(lacking):
    few = lacking[0]
    raise DataError(
      f"{name}/train has {sizes[few]} image(s) of class '{class_names[few]}' "
      f"to train on, and {len(lacking)} class(es) have fewer than "
      f"config.data.per_class={per_class}; add images or train on more of "
      "them, or set config.data.per_class=0."
    )


def check_labels(where: str, labels: np.ndarray, num_classes: int) -> None:
  """Refuses labels [N] that are not in [0, num_classes).

  Raises:
    DataError: naming the first wrong label.
  """
  wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
  if len(wrong):
    raise DataError(
      f"{where} has label {labels[wrong[0]]} at position {wrong[0]}; 0 to "
      f"{num_classes - 1} were expected. Replace the damaged file."
    )


def check_split(
  where: str,
  images: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  may_be_empty: bool,
) -> None:
  """Refuses a split of images [N, H, W, c] that breaks a rule.

  Raises:
    DataError: naming the rule that it breaks.
  """
  if images.ndim != 4 or images.dtype != np.uint8:
    raise DataError(
      f"{where} has images {images.dtype} {images.shape}; uint8 "
      "[N, H, W, c] was expected."
    )
  lacks = len(images) == 0 and not may_be_empty
  if lacks or len(images) != len(labels):
    raise DataError(
      f"{where} has {len(images)} images and {len(labels)} labels; as many of "
      "each, and one at least, were expected."
    )
  check_labels(where, labels, num_classes)


def share(setting: str, fraction: float, count: int, what: str) -> int:
  """How many of `count` things a fraction stands for.

  Raises:
    ConfigError: if a fraction above 0 stands for none.
  """
  number = round(fraction * count)
  if fraction and not number:
    remedy = f"set it to {1 / count:.2g} or more" if count > 1 else "add some"
    raise ConfigError(
      f"{setting}={fraction} of {count} {what} is none; {remedy}, or set it to "
      "0 to do without."
    )
  return number
