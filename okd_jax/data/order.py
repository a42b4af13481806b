"""The order of training examples: a function of seed, step and batch size.

Batches are consecutive slices of the concatenated permutations of the epochs,
so every example is seen once an epoch and every batch is full. Alternatively,
each batch is drawn independently, with the same number of examples of each of
its classes.
"""

from collections.abc import Sequence
import functools

import numpy as np

from okd_jax.errors import ConfigError

# Keys of the balanced batches, apart from those of the epochs.
_BALANCED = 1 << 62


def _shuffled(count: int, key: tuple[int, int]) -> np.ndarray:
  # NumPy guarantees the raw stream of a bit generator, but not the results of
  # Generator.permutation, across releases; a resumed run must not depend on it.
  draws = np.random.Philox(key=np.asarray(key, np.uint64)).random_raw(count)
  return np.argsort(draws, kind="stable").astype(np.int32)


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
  """Returns the order of one epoch, int32 [num_examples], read-only."""
  if seed < 0:
    raise ValueError(f"seed={seed} must not be negative; choose another.")
  order = _shuffled(num_examples, (seed, epoch))
  order.flags.writeable = False
  return order


def indices(
  seed: int, step: int, batch_size: int, num_examples: int
) -> np.ndarray:
  """Returns the examples of one training batch.

  Args:
    seed: seed of the run, not negative.
    step: global step, 0-based.
    batch_size: number B of examples; may exceed `num_examples`.
    num_examples: size of the training set.

  Returns:
    int32 [B], each in [0, num_examples).
  """
  parts = []
  start, stop = step * batch_size, (step + 1) * batch_size
  while start < stop:
    epoch, offset = divmod(start, num_examples)
    part = permutation(seed, epoch, num_examples)[
      offset : offset + stop - start
    ]
    parts.append(part)
    start += len(part)
  return np.concatenate(parts)


def num_draws(batch_size: int, per_class: int) -> int:
  """Returns the number of draws in a class-balanced batch.

  Raises:
    ConfigError: if a batch does not hold whole draws.
  """
  draws, rest = divmod(batch_size, per_class)
  if rest:
    raise ConfigError(
      f"config.batch_size={batch_size} must be a multiple of "
      f"config.data.per_class={per_class}; change one of them."
    )
  return draws


def balanced(
  seed: int,
  step: int,
  batch_size: int,
  members: Sequence[np.ndarray],
  per_class: int,
) -> np.ndarray:
  """Returns the examples of one class-balanced training batch.

  Classes are drawn at random, none twice before all were drawn. Each draw adds
  `per_class` examples of the class that are not yet in the batch; if the class
  has too few, its examples are repeated. Batches do not depend on each other,
  so an epoch does not visit each example exactly once.

  Args:
    seed: seed of the run, not negative.
    step: global step, 0-based.
    batch_size: number B of examples, a multiple of `per_class`.
    members: the examples of every class, int32, at least `per_class`.
    per_class: number of examples of a class in a draw.

  Returns:
    int32 [B]: the first example of every draw, then the second of every draw,
    and so on, so that draws stay whole in every n-th example of the batch.
  """
  key = np.asarray((seed, _BALANCED + step), np.uint64)
  raw = np.random.Philox(key=key).random_raw
  count = num_draws(batch_size, per_class)
  chosen = np.argsort(raw(len(members)), kind="stable")[:count]
  rounds = -(-count // len(chosen))
  ends = np.cumsum([len(members[c]) for c in chosen])
  draws = np.split(raw(int(ends[-1])), ends[:-1])
  taken = [
    members[c][_smallest(own, rounds * per_class)]
    for c, own in zip(chosen, draws, strict=True)
  ]
  in_rounds = np.stack(taken).reshape(len(chosen), rounds, per_class)
  by_draw = in_rounds.swapaxes(0, 1).reshape(-1, per_class)[:count]
  return by_draw.T.reshape(-1)


def _smallest(draws: np.ndarray, count: int) -> np.ndarray:
  """Positions of the smallest draws, rising; repeated if there are too few."""
  known = min(count, len(draws))
  some = np.argpartition(draws, known - 1)[:known]
  return np.resize(some[np.argsort(draws[some])], count)


def stratified(
  labels: np.ndarray, count: int, purpose: int
) -> tuple[np.ndarray, np.ndarray]:
  """Divides examples in two, each class in proportion.

  The choice does not depend on the seed of a run, and a smaller choice from a
  balanced set lies within a larger one.

  Args:
    labels: int [N].
    count: number of examples to choose, at most N.
    purpose: a number that makes choices for different purposes independent.

  Returns:
    Positions of the chosen examples and of the rest, each in rising order.
  """
  classes, sizes = np.unique(labels, return_counts=True)
  share = sizes * (count / len(labels))
  quota = np.floor(share).astype(int)
  # Largest remainder; the stable sort gives ties to the lower class.
  largest = np.argsort(quota - share, kind="stable")[: count - quota.sum()]
  quota[largest] += 1
  chosen = np.zeros(len(labels), bool)
  for label, take in zip(classes, quota, strict=True):
    members = np.flatnonzero(labels == label)
    order = _shuffled(len(members), (purpose, int(label)))
    chosen[members[order[:take]]] = True
  return (
    np.flatnonzero(chosen).astype(np.int32),
    np.flatnonzero(~chosen).astype(np.int32),
  )
