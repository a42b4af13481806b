"""The contract of sources, on digits: memory, tf.data, meshes, wrong input."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np
import pytest

from okd_jax import data
from okd_jax.data.formats import publisher
from okd_jax.data.sources import source, tfdata as tfds
from okd_jax.errors import DataError


def mesh(shape):
  return Mesh(
    np.asarray(jax.devices()).reshape(shape),
    ("data", "peer"),
    axis_types=(AxisType.Auto,) * 2,
  )


def make(
  kind,
  config=None,
  *,
  batch_size=64,
  eval_batch_size=64,
  held_out=0.0,
  where=None,
):
  """Digits from either source; only tests stream them through tf.data."""
  made = data.make(
    config or {"name": "digits"},
    batch_size=batch_size,
    eval_batch_size=eval_batch_size,
    seed=4,
    held_out=held_out,
    mesh=where,
  )
  if kind == "memory":
    return made
  return tfds.TfdsSource(
    publisher.digits(),
    made.positions,
    batch_size=batch_size,
    eval_batch_size=eval_batch_size,
    seed=4,
    mesh=where,
  )


def take(batches, count):
  return [jax.device_get(next(batches)) for _ in range(count)]


def assert_batches_equal(found, expected):
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("kind", ["memory", "tfds"])
def test_training_batches(kind):
  made = make(kind)
  host = publisher.digits()
  for step, batch in enumerate(take(made.batches(0), 3)):
    assert batch.image.dtype == np.uint8 and batch.target.dtype == np.int32
    assert batch.index.dtype == np.int32 and batch.mask.all()
    np.testing.assert_array_equal(batch.index, made.order(step))
    np.testing.assert_array_equal(batch.image, host.train.images[batch.index])
    np.testing.assert_array_equal(batch.target, host.train.labels[batch.index])
  assert made.train_size == made.info.num_train == 1437


@pytest.mark.parametrize("kind", ["memory", "tfds"])
@pytest.mark.checklist("D1")
def test_resume_is_exact(kind):
  made = make(kind)
  # Step 22 is the last of the first epoch.
  whole = take(made.batches(0), 26)
  for first in (1, 22, 25):
    assert_batches_equal(
      take(make(kind).batches(first), 26 - first), whole[first:]
    )


@pytest.mark.parametrize("kind", ["memory", "tfds"])
@pytest.mark.parametrize("shape", [(8, 1), (4, 2)])
@pytest.mark.checklist("D1")
def test_meshes_give_the_same_batches(kind, shape):
  where = mesh(shape)
  made = make(kind, where=where)
  plain = take(make(kind).batches(5), 2)
  batches = made.batches(5)
  first = next(batches)
  wanted = NamedSharding(where, PartitionSpec("data"))
  for array in jax.tree.leaves(first):
    assert array.sharding.is_equivalent_to(wanted, array.ndim)
  assert_batches_equal([jax.device_get(first), *take(batches, 1)], plain)
  evaluated = list(made.evaluation("test"))
  assert_batches_equal(
    jax.device_get(evaluated),
    list(map(jax.device_get, make(kind).evaluation("test"))),
  )


@pytest.mark.parametrize("kind", ["memory", "tfds"])
@pytest.mark.parametrize("eval_batch_size", [1, 7, 128, 10_000])
@pytest.mark.checklist("D3")
def test_evaluation_counts_every_example_once(kind, eval_batch_size):
  made = make(kind, eval_batch_size=eval_batch_size)
  host = publisher.digits().test
  batches = [jax.device_get(b) for b in made.evaluation("test")]
  assert {len(b.target) for b in batches} == {eval_batch_size}
  index = np.concatenate([b.index[b.mask] for b in batches])
  np.testing.assert_array_equal(index, np.arange(360))
  images = np.concatenate([b.image[b.mask] for b in batches])
  np.testing.assert_array_equal(images, host.images)
  labels = np.concatenate([b.target[b.mask] for b in batches])
  np.testing.assert_array_equal(labels, host.labels)


@pytest.mark.parametrize("kind", ["memory", "tfds"])
def test_splits_of_the_training_set(kind):
  config = {"name": "digits", "validation": 0.1, "train_examples": 500}
  made = make(kind, config, held_out=0.1)
  host = publisher.digits().train
  seen = {"train": np.unique(made.positions["train"])}
  for split in ("validation", "held_out"):
    batches = [jax.device_get(b) for b in made.evaluation(split)]
    index = np.concatenate([b.index[b.mask] for b in batches])
    labels = np.concatenate([b.target[b.mask] for b in batches])
    np.testing.assert_array_equal(labels, host.labels[index])
    seen[split] = index
  assert {k: len(v) for k, v in seen.items()} == {
    "train": 450,
    "validation": 144,
    "held_out": 50,
  }
  assert len(np.unique(np.concatenate(list(seen.values())))) == 644
  trained = np.concatenate([b.index for b in take(made.batches(0), 8)])
  assert set(trained) == set(seen["train"])


@pytest.mark.parametrize("kind", ["memory", "tfds"])
def test_empty_splits_are_refused(kind):
  with pytest.raises(DataError, match="'held_out' of digits is empty"):
    next(make(kind).evaluation("held_out"))


@pytest.mark.parametrize("kind", ["memory", "tfds"])
def test_transfers_are_explicit(kind):
  made = make(kind, where=mesh((8, 1)))
  batches = made.batches(0)
  next(batches)
  with jax.transfer_guard("disallow"):
    next(batches)
    next(made.evaluation("test"))


def test_gathering_inside_a_step():
  made = make("memory")
  image = jax.jit(made.images.take)(made.order(2))
  np.testing.assert_array_equal(image, next(made.batches(2)).image)


def test_memory_gathers_in_one_compiled_function():
  made = make("memory", where=mesh((8, 1)))
  batches = made.batches(0)
  before = memory_cache_size()
  for _ in range(3):
    next(batches)
  assert memory_cache_size() - before <= 1


def memory_cache_size():
  from okd_jax.data.sources import memory

  return memory._take._cache_size()


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ({"nam": "digits"}, "no key 'nam'; did you mean 'name'"),
    ({"name": "cifar_10"}, "'cifar_10' is unknown; did you mean 'cifar10'"),
    (
      {"name": "digits", "source": "disk"},
      "source='disk' must be one of memory",
    ),
    ({"name": "digits", "source": "tfds"}, "for digits"),
    (
      {"name": "digits", "validation": 1.0},
      "validation=1.0 must be at least 0 and below",
    ),
    ({"name": "digits", "validation": float("nan")}, "validation=nan"),
    ({"name": "digits", "train_examples": -1}, "train_examples=-1"),
    ({"name": "digits", "train_examples": 9}, "between 10, one a class, and"),
    (
      {"name": "digits", "train_examples": "all"},
      "train_examples='all' must be",
    ),
    ({"name": "digits", "test_fraction": 1.0}, "test_fraction=1.0"),
    ({"name": "digits", "image_size": 0}, "image_size=0"),
    ({"name": 3}, "name=3 must be the name of a data set"),
  ],
)
@pytest.mark.checklist("G1")
def test_wrong_configuration_is_refused(config, message):
  with pytest.raises(ValueError, match=message):
    data.make(config, batch_size=8, eval_batch_size=8, seed=0)


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"batch_size": 0}, "batch_size=0 must be a positive multiple"),
    ({"batch_size": 12}, "batch_size=12 .* data axis of the mesh .8."),
    ({"eval_batch_size": 12}, "eval_batch_size=12"),
    ({"seed": -1}, "seed=-1"),
    ({"held_out": 1.0}, "held_out=1.0"),
  ],
)
def test_wrong_arguments_are_refused(kwargs, message):
  usual = {"batch_size": 8, "eval_batch_size": 8, "seed": 0}
  with pytest.raises(ValueError, match=message):
    data.make({"name": "digits"}, **(usual | kwargs), mesh=mesh((8, 1)))


def test_each_process_loads_its_part():
  np.testing.assert_array_equal(source.local_slots(None, 8), np.arange(8))
  np.testing.assert_array_equal(
    source.local_slots(mesh((4, 2)), 8), np.arange(8)
  )
