"""Runs the `tf.data` pipelines: in parallel, ahead of use, without tuning."""

from collections.abc import Callable, Iterator
from typing import Any

from okd_jax.devices import host

# Elements that are made before they are asked for.
_AHEAD = 2


def parallel_map(dataset: Any, function: Callable[..., Any]) -> Any:
  """Maps on all CPU cores; elements stay in order."""
  return dataset.map(
    function, num_parallel_calls=host.cores(), deterministic=True
  )


def iterate(dataset: Any) -> Iterator[Any]:
  """Makes elements ahead and returns them as NumPy arrays.

  The numbers above are fixed, and tuning is off, because an iterator ends only
  when the thread that tunes it does. That thread sleeps, twice as long each
  time and up to a minute, and may miss that it is to end.
  """
  import tensorflow as tf

  options = tf.data.Options()
  options.autotune.enabled = False
  ahead = dataset.prefetch(_AHEAD).with_options(options)
  elements: Iterator[Any] = ahead.as_numpy_iterator()
  return elements
