"""Class-balanced batches: from which examples, and the same in all sources."""

from pathlib import Path

import golden
import jax
import numpy as np
import pytest
import test_data_sources as sources

from okd_jax import data
from okd_jax.data import order
from okd_jax.data.formats import publisher
from okd_jax.data.sources import source, tfdata
from okd_jax.errors import ConfigError, DataError


def members_of(*sizes):
  """Classes of consecutive examples."""
  ends = np.cumsum(sizes).astype(np.int32)
  return np.split(np.arange(ends[-1], dtype=np.int32), ends[:-1])


def classes_of(batch, members):
  label = np.concatenate([[c] * len(rows) for c, rows in enumerate(members)])
  return label[batch]


def batch(members, batch_size, per_class=2, seed=3, step=0):
  return order.balanced(seed, step, batch_size, members, per_class)


@pytest.mark.parametrize(
  ("sizes", "batch_size", "per_class"),
  [
    ([500] * 100, 128, 2),
    ([2] * 1203, 128, 2),
    (list(range(2, 1205)), 256, 2),
    ([7, 5, 9, 4], 12, 3),
    ([2, 2, 2], 6, 2),
  ],
)
def test_every_class_of_a_batch_has_so_many_images(
  sizes, batch_size, per_class
):
  members = members_of(*sizes)
  for step in range(5):
    drawn = batch(members, batch_size, per_class, step=step)
    assert drawn.shape == (batch_size,) and drawn.dtype == np.int32
    assert len(set(drawn)) == batch_size
    by_draw = classes_of(drawn, members).reshape(per_class, -1)
    assert np.all(by_draw == by_draw[0])
    assert len(set(by_draw[0])) == batch_size // per_class


@pytest.mark.parametrize(
  ("num_classes", "counts"), [(2, [64, 64]), (10, [12] * 6 + [14] * 4)]
)
def test_few_classes_come_again_with_other_images(num_classes, counts):
  members = members_of(*[70] * num_classes)
  drawn = batch(members, 128)
  assert len(set(drawn)) == 128
  found = np.bincount(classes_of(drawn, members))
  np.testing.assert_array_equal(np.sort(found), counts)


def test_a_class_with_too_few_images_begins_anew():
  members = members_of(3, 30)
  drawn = batch(members, 20)
  own = drawn.reshape(2, -1).T[classes_of(drawn, members)[:10] == 0]
  assert len(own) == 5
  np.testing.assert_array_equal(np.sort(np.bincount(own.ravel())), [3, 3, 4])
  assert np.all(own[:, 0] != own[:, 1])


@pytest.mark.parametrize("parts", [2, 4])
def test_draws_stay_whole_in_parts_of_a_batch(parts):
  members = members_of(*[9] * 30)
  drawn = classes_of(batch(members, 24, per_class=3), members)
  for part in range(parts):
    _, counts = np.unique(drawn[part::parts], return_counts=True)
    np.testing.assert_array_equal(counts, [3] * (8 // parts))


def test_published_properties():
  case = golden.case("mcl", "m_per_class_sampler")
  given, expected = case["inputs"], case["expected"]
  labels = np.array(given["labels"])
  members = [np.flatnonzero(labels == c).astype(np.int32) for c in range(4)]
  drawn = batch(members, given["batch_size"], given["m_per_class"])
  found, counts = np.unique(labels[drawn], return_counts=True)
  assert len(found) == expected["classes_per_batch"]
  assert set(counts) == {expected["items_per_class"]}
  assert len(labels) // len(drawn) == expected["steps_per_epoch"]


def test_a_batch_is_a_function_of_seed_and_step():
  members = members_of(*[50] * 20)
  drawn = batch(members, 16)
  np.testing.assert_array_equal(drawn, batch(members, 16))
  for other in ({"seed": 4}, {"step": 1}):
    assert set(batch(members, 16, **other)) != set(drawn)


def test_batches_are_the_documented_ones():
  """By raw numbers, which NumPy guarantees to be the same in every release."""
  key = np.array([9, (1 << 62) + 5], np.uint64)
  raw = np.random.Philox(key=key).random_raw(4 + 2 * 6)
  by_draw = sorted(range(4), key=lambda c: raw[c])[:2]
  expected = []
  for i, c in enumerate(by_draw):
    own = raw[4 + 6 * i :][:6]
    first, second = sorted(range(6), key=lambda j: own[j])[:2]
    expected.append([6 * c + first, 6 * c + second])
  members = members_of(6, 6, 6, 6)
  np.testing.assert_array_equal(
    batch(members, 4, seed=9, step=5), np.array(expected).T.ravel()
  )


def test_all_classes_and_images_are_equally_frequent():
  members = members_of(*[10] * 12)
  drawn = np.concatenate([batch(members, 8, step=s) for s in range(3000)])
  # 200 of each expected, and a deviation of about 14.
  counts = np.bincount(drawn, minlength=120)
  assert counts.min() > 140 and counts.max() < 260


def make(kind="memory", where=None, batch_size=16, **config):
  config = {"name": "digits", "per_class": 2} | config
  made = data.make(
    config, batch_size=batch_size, eval_batch_size=64, seed=4, mesh=where
  )
  if kind == "memory":
    return made
  return tfdata.TfdsSource(
    publisher.digits(),
    made.positions,
    batch_size=batch_size,
    eval_batch_size=64,
    seed=4,
    mesh=where,
    per_class=2,
  )


@pytest.mark.parametrize("kind", ["memory", "tfds"])
@pytest.mark.parametrize("shape", [None, (4, 2)])
def test_sources_go_on_exactly_on_every_mesh(kind, shape):
  where = sources.mesh(shape) if shape else None
  whole = sources.take(make().batches(0), 5)
  for one in whole:
    np.testing.assert_array_equal(np.bincount(one.target).max(), 2)
    labels = publisher.digits().train.labels
    np.testing.assert_array_equal(one.target, labels[one.index])
  found = sources.take(make(kind, where).batches(3), 2)
  sources.assert_batches_equal(found, whole[3:])


def test_streams_are_balanced_and_go_on_exactly(tmp_path):
  for name, count in (("cat", 9), ("dog", 3)):
    for i in range(count):
      save(tmp_path / "train" / name / f"{i}.png", 20 * i)
    save(tmp_path / "val" / name / "0.png", 0)
  config = {"name": f"folder:{tmp_path}", "source": "stream", "image_size": 8}
  whole = sources.take(make(**config, batch_size=4).batches(0), 4)
  for one in whole:
    np.testing.assert_array_equal(np.bincount(one.target), [2, 2])
  resumed = sources.take(make(**config, batch_size=4).batches(2), 2)
  sources.assert_batches_equal(resumed, whole[2:])


def save(path: Path, grey):
  from PIL import Image

  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new("RGB", (12, 12), (grey, grey, grey)).save(path)


def test_every_process_draws_the_same():
  """A batch has no place for a number of process or device."""
  whole = make().order(7)
  halves = [
    make(where=sources.mesh((8, 1))).order(7)[slots]
    for slots in np.split(source.local_slots(None, 16), 2)
  ]
  np.testing.assert_array_equal(np.concatenate(halves), whole)


def test_only_examples_to_train_on_are_drawn():
  made = make(train_examples=100, validation=0.1)
  drawn = np.concatenate([made.order(step) for step in range(60)])
  assert set(drawn) <= set(made.positions["train"])
  assert len(set(drawn)) > 90


def test_too_few_images_of_a_class_are_refused():
  with pytest.raises(
    DataError, match="1 image.* '0' .* 10 class.*per_class=2; add .*per_class=0"
  ):
    make(train_examples=10)


def test_a_batch_that_does_not_divide_is_refused():
  with pytest.raises(ConfigError, match="batch_size=15 .*per_class=2; change"):
    make(batch_size=15)


def test_keypoints_have_no_classes():
  with pytest.raises(ConfigError, match="per_class=2 must be 0 for keypoints"):
    data.check({"name": "stickfolk/easy", "per_class": 2})


def test_without_it_every_epoch_shows_every_image_once():
  made = make(per_class=0)
  jax.tree.map(
    np.testing.assert_array_equal,
    made.order(3),
    sources.make("memory", batch_size=16).order(3),
  )
