"""Checks and conversions that every loss applies to its inputs.

Errors name the function and the argument, and say what was expected and what
was given.
"""

from collections.abc import Callable, Sequence
import math
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
# A number, or an array (traced ones too) where the docstring allows it.
Scalar = float | Array

# Axes in front of those named: any that broadcast, or the same in all arrays.
BROADCAST, SAME = "...", "*"
# Axes of classes, positions and the like: an empty axis has no mean.
_NOT_EMPTY = "CDEHJNTWhw"


class InputError(ValueError, AssertionError):
  """A loss was called with an invalid argument.

  It is both a ValueError, for settings, and an AssertionError, for arrays.
  """


def refuse(function: str, argument: str, expected: str, got: str) -> NoReturn:
  """Raises an `InputError`."""
  raise InputError(f"{function}: {argument} must be {expected}; got {got}")


def describe(value: Any) -> str:
  """The dtype and shape of an array; anything else as Python writes it."""
  if isinstance(value, jax.Array | np.ndarray):
    return f"{value.dtype} [{', '.join(map(str, value.shape))}]"
  return f"{value!r:.100}"


def as_floats(function: str, **arguments: tuple[Any, str]) -> list[Array]:
  """Returns arrays in float32 at least, after a check of dtypes and shapes.

  Args:
    function: name of the public function, for the error.
    **arguments: for every argument its value and the letters of its axes, such
      as "P B C". A letter stands for the same size in all arguments, "D'" for a
      size of its own; sizes of the letters in `_NOT_EMPTY` must not be 0. The
      first of the axes may be `BROADCAST` or `SAME`.
  """
  sizes: dict[str, tuple[int, ...]] = {}
  arrays = []
  for argument, (value, letters) in arguments.items():
    axes = letters.split()
    names = ", ".join(axes).replace(SAME, BROADCAST)
    expected = f"float [{names}]"
    array = _as_array(function, argument, expected, value)
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    if not floating or not _fits(array.shape, axes, sizes):
      known = ", ".join(
        f"{axis} = {sizes[axis][0]}"
        for axis in axes
        if axis in sizes and axis not in (BROADCAST, SAME)
      )
      context = f" with {known}" if known else ""
      refuse(function, argument, expected, describe(array) + context)
    if empty := [a for a in axes if a[0] in _NOT_EMPTY and sizes[a] == (0,)]:
      expected = f"{expected} with {empty[0]} of at least 1"
      refuse(function, argument, expected, describe(array))
    arrays.append(at_least_float32(array))
  return arrays


def at_least_float32(x: Array) -> Array:
  """Casts narrower floats to float32; float32 and float64 stay as they are."""
  return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def as_list(function: str, argument: str, value: Any) -> list[Any]:
  """Returns a sequence of arrays as a list, without checking the arrays."""
  try:
    return list(value)
  except TypeError:
    refuse(function, argument, "a sequence", describe(value))


def _as_array(function, argument, expected, value) -> Array:
  try:
    return jnp.asarray(value)
  except (TypeError, ValueError):
    refuse(function, argument, expected, describe(value))


def _fits(shape, axes, sizes) -> bool:
  """Whether a shape has these axes; records the sizes of new letters."""
  new = dict(sizes)
  if axes[0] in (BROADCAST, SAME):
    lead, axes = axes[0], axes[1:]
    count = len(shape) - len(axes)
    if count < 0:
      return False
    leading, shape = shape[:count], shape[count:]
    other = new.setdefault(lead, leading)
    if lead == SAME and other != leading:
      return False
    if lead == BROADCAST:
      together = broadcast_shapes(other, leading)
      if together is None:
        return False
      new[lead] = together
  if len(shape) != len(axes):
    return False
  if any(
    new.setdefault(axis, (size,)) != (size,)
    for axis, size in zip(axes, shape, strict=True)
  ):
    return False
  sizes.update(new)
  return True


def check_peers(
  function: str, argument: str, peers: Array, at_least: int
) -> None:
  """Raises `InputError` unless the first axis has enough peers."""
  if peers.shape[0] < at_least:
    peers_wanted = f"{at_least} peer{'s' * (at_least > 1)}"
    expected = f"an array with at least {peers_wanted} on axis 0"
    refuse(function, argument, expected, describe(peers))


def on_host(value: Any) -> np.ndarray | None:
  """A value as a NumPy array; None if only the running program knows it."""
  if isinstance(value, jax.core.Tracer):
    return None
  if isinstance(value, jax.Array) and not value.is_fully_addressable:
    return None
  try:
    return np.asarray(value)
  except (TypeError, ValueError):
    return np.asarray(None)


def check_numbers(
  function: str,
  argument: str,
  value: Any,
  expected: str,
  legal: Callable[[np.ndarray], np.ndarray],
  fits: Callable[[tuple[int, ...]], bool] = lambda shape: not shape,
) -> None:
  """Raises `InputError` unless a value is a number, valid as far as known.

  `legal` says which numbers of an array are valid, `fits` which shapes are.
  """
  host = on_host(value)
  known = value if host is None else host
  if not _is_number(known) or not fits(known.shape):
    refuse(function, argument, expected, describe(value))
  if host is not None:
    wrong = host[~legal(host.astype(np.float64))]
    if wrong.size:
      context = f" in {describe(host)}" if host.ndim else ""
      refuse(function, argument, expected, f"{wrong.flat[0]}{context}")


def is_positive(x: np.ndarray) -> np.ndarray:
  """Which numbers are positive and finite."""
  return (x > 0) & (x < math.inf)


def check_temperature(
  function: str,
  temperature: Any,
  argument: str = "temperature",
  predictions: Sequence[tuple[int, ...]] = (),
) -> None:
  """Raises `InputError` unless a temperature is positive, as far as known.

  It must be a scalar, or broadcast with the shapes of predictions, if given.
  """
  expected = "a positive number"

  def fits(shape):
    return bool(predictions) or not shape

  check_numbers(function, argument, temperature, expected, is_positive, fits)
  if broadcast_shapes(np.shape(temperature), *predictions) is None:
    expected = "a scalar or an array that broadcasts over the predictions"
    refuse(function, argument, expected, describe(temperature))


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...] | None:
  """The shape that these shapes broadcast to; None if they do not."""
  try:
    return jnp.broadcast_shapes(*shapes)  # also of symbolic sizes
  except ValueError:
    return None


def check_not_negative(function: str, argument: str, value: Any) -> None:
  """Raises `InputError` unless a static setting is a number of at least 0."""
  expected = "a number of at least 0, known when the program is compiled"
  if on_host(value) is None:
    refuse(function, argument, expected, describe(value))
  check_numbers(
    function, argument, value, expected, lambda x: (x >= 0) & (x < math.inf)
  )


def check_weights(function: str, **weights: Any) -> None:
  """Raises `InputError` unless weights are scalars, finite as far as known."""
  for argument, weight in weights.items():
    host = on_host(weight)
    known = weight if host is None else host
    if known.shape or not (_is_number(known) or known.dtype == bool):
      refuse(function, argument, "a number", describe(weight))
    if host is not None and not np.isfinite(host.astype(np.float64)):
      refuse(function, argument, "a finite number", f"{host}")


def _is_number(x: Any) -> bool:
  return any(jnp.issubdtype(x.dtype, k) for k in (jnp.floating, jnp.integer))


def weighted(weight: Scalar, term: Array) -> Array:
  """Multiplies a term by a weight without changing the term's dtype."""
  return jnp.asarray(weight, term.dtype) * term
