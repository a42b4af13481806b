"""Order of examples and division of the training split."""

import numpy as np
import pytest

from okd_jax.data import order
from okd_jax.data.sources import source


@pytest.mark.parametrize("batch_size", [7, 10, 64])
@pytest.mark.checklist("D1")
def test_every_epoch_is_a_permutation(batch_size):
  num_examples = 30
  steps = 3 * num_examples  # a whole number of epochs for every batch size
  stream = np.concatenate(
    [order.indices(5, s, batch_size, num_examples) for s in range(steps)]
  )
  epochs = stream.reshape(-1, num_examples)
  np.testing.assert_array_equal(
    np.sort(epochs, axis=1), np.tile(np.arange(num_examples), (len(epochs), 1))
  )
  assert not np.array_equal(epochs[0], epochs[1])


def test_slices_do_not_depend_on_the_batch_size():
  streams = [
    np.concatenate([order.indices(3, s, b, 13) for s in range(60 // b)])
    for b in (1, 4, 60)
  ]
  np.testing.assert_array_equal(streams[0], streams[1])
  np.testing.assert_array_equal(streams[0], streams[2])


def test_seeds_differ_and_negative_ones_are_refused():
  assert not np.array_equal(
    order.permutation(0, 0, 50), order.permutation(1, 0, 50)
  )
  with pytest.raises(ValueError, match="seed=-1"):
    order.indices(-1, 0, 4, 50)


def test_order_is_the_documented_one():
  # Ranks of the raw Philox stream with key (seed, epoch), which NumPy
  # guarantees to be the same in every release.
  raw = np.random.Philox(key=np.array([9, 2], np.uint64)).random_raw(20)
  expected = sorted(range(20), key=lambda i: raw[i])
  np.testing.assert_array_equal(order.permutation(9, 2, 20), expected)


def test_stratified_is_proportional_and_disjoint():
  labels = np.repeat([0, 1, 2], [50, 30, 21])
  chosen, rest = order.stratified(labels, 40, purpose=1)
  np.testing.assert_array_equal(
    np.sort(np.concatenate([chosen, rest])), np.arange(101)
  )
  # 40/101 of 50, 30, 21 = 19.80, 11.88, 8.32: remainders go to 0 and 1.
  np.testing.assert_array_equal(np.bincount(labels[chosen]), [20, 12, 8])
  again, _ = order.stratified(labels, 40, purpose=1)
  np.testing.assert_array_equal(chosen, again)
  other, _ = order.stratified(labels, 40, purpose=2)
  assert not np.array_equal(chosen, other)


def test_smaller_subsets_lie_within_larger_ones():
  labels = np.arange(100) % 10
  small, _ = order.stratified(labels, 20, purpose=1)
  large, _ = order.stratified(labels, 50, purpose=1)
  assert set(small) < set(large)


def test_divide_takes_validation_subset_and_held_out_apart():
  labels = np.arange(1000) % 10
  parts = source.divide(
    labels, validation=0.1, train_examples=500, held_out=0.2
  )
  sizes = {name: len(part) for name, part in parts.items()}
  assert sizes == {"validation": 100, "held_out": 100, "train": 400}
  joined = np.concatenate(list(parts.values()))
  assert len(np.unique(joined)) == 600
  for part in parts.values():
    counts = np.bincount(labels[part])
    assert counts.min() == counts.max()
  everything = source.divide(
    labels, validation=0.1, train_examples=0, held_out=0.0
  )
  np.testing.assert_array_equal(everything["validation"], parts["validation"])
  assert len(everything["train"]) == 900


@pytest.mark.parametrize("groups", [None, np.arange(100) // 10])
@pytest.mark.parametrize("name", ["validation", "held_out"])
def test_divide_refuses_a_fraction_of_nothing(name, groups):
  labels = np.arange(100) % 10
  asked = {"validation": 0.0, "train_examples": 0, "held_out": 0.0}
  count = 100 if groups is None else 10
  with pytest.raises(ValueError, match=rf"{name}=0.004 of {count} .* is none"):
    source.divide(labels, groups=groups, **(asked | {name: 0.004}))
  least = {name: 1 / count}
  assert len(source.divide(labels, groups=groups, **(asked | least))[name])
  assert not len(source.divide(labels, groups=groups, **asked)[name])


def test_divide_refuses_impossible_subsets():
  labels = np.arange(100) % 10
  for count in (5, 91):
    with pytest.raises(ValueError, match=f"train_examples={count}"):
      source.divide(labels, validation=0.1, train_examples=count, held_out=0.0)
  with pytest.raises(ValueError, match="leave no training example"):
    source.divide(labels, validation=0.0, train_examples=0, held_out=0.999)
