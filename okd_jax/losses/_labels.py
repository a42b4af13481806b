"""Labels: class indices or probabilities, and their conversions."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from okd_jax.losses._inputs import Array, describe, on_host, refuse


def is_soft(labels: Any) -> bool:
  """Whether labels are probabilities [B, C] and not class indices [B]."""
  return bool(jnp.issubdtype(labels.dtype, jnp.floating))


def as_labels(function: str, labels: Any, logits: Array) -> Array:
  """Returns the labels of logits [..., B, C] in the form that losses read.

  Returns:
    Probabilities, float [B, C], or class indices, int32 [B]; an index that is
    out of range but known only when the program runs is replaced by -1.

  Raises:
    InputError: for another shape or dtype, or an index known to be out of
      range.
  """
  expected = "integer [B] or float [B, C]"
  return _as_labels(function, labels, logits, expected, logits.ndim - 2)


def as_suffix_labels(function: str, labels: Any, logits: Array) -> Array:
  """As `as_labels`; labels may lack any number of the logits' leading axes."""
  expected = (
    "integer, of the shape of the predictions or a suffix of it, or float "
    "with an axis of classes more"
  )
  return _as_labels(function, labels, logits, expected, None)


def _as_labels(function, labels, logits, expected, lacking) -> Array:
  host = on_host(labels)
  known = labels if host is None else host
  soft = is_soft(known)
  whole = logits.shape if soft else logits.shape[:-1]
  if lacking is None:
    lacking = len(whole) - known.ndim
  if (
    not (soft or jnp.issubdtype(known.dtype, jnp.integer))
    or lacking < 0
    or known.shape != whole[lacking:]
    or (soft and known.ndim == 0)
  ):
    got = f"{describe(labels)} with logits {describe(logits)}"
    refuse(function, "labels", expected, got)
  if soft:
    return jnp.asarray(labels)
  return _as_indices(function, labels, host, logits.shape[-1])


def _as_indices(function, labels, host, num_classes) -> Array:
  # NumPy's 64 bits are checked before jax cuts them to 32.
  if host is not None:
    wrong = host[(host < 0) | (host >= num_classes)]
    if wrong.size:
      expected = f"class indices in [0, {num_classes})"
      refuse(function, "labels", expected, str(wrong[0]))
    return jnp.asarray(host.astype(np.int32))
  if labels.dtype.itemsize < 4:
    unsigned = jnp.issubdtype(labels.dtype, jnp.unsignedinteger)
    labels = labels.astype(jnp.uint32 if unsigned else jnp.int32)
  known = (labels >= 0) & (labels < num_classes)
  return jnp.where(known, labels, -1).astype(jnp.int32)


def as_probabilities(labels: Array, num_classes: int, dtype: Any) -> Array:
  """[..., C] from the result of `as_labels`; nan for indices out of range."""
  if is_soft(labels):
    return labels.astype(dtype)
  one_hot = labels[..., None] == jnp.arange(num_classes, dtype=labels.dtype)
  # Not a product with nan: XLA makes that of a truth value a choice with 0.
  return jnp.where(labels[..., None] >= 0, one_hot.astype(dtype), math.nan)


def nan_unless(condition: Array, dtype: Any) -> Array:
  """A factor of 1, or nan: the gradient of what it multiplies is nan too."""
  return jnp.where(condition, 1, math.nan).astype(dtype)
