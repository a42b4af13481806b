"""Chunks of steps on the device do what single steps do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax import methods
from okd_jax.data.info import HostData, Split
from okd_jax.data.sources.memory import MemorySource
from okd_jax.devices import mesh as mesh_lib
from okd_jax.groups import once
from okd_jax.training import (
  setup as setup_lib,
  state as state_lib,
  step as steps,
)
from okd_jax.training.runner import Runner
import runs
import toys


def source(recipe) -> MemorySource:
  rng = np.random.default_rng(0)

  def split(size):
    return Split(
      rng.integers(0, 256, (size, *toys.INFO.image_shape), dtype=np.uint8),
      rng.integers(0, toys.INFO.num_classes, size).astype(np.int32),
    )

  return MemorySource(
    HostData(toys.INFO, split(toys.INFO.num_train), split(16)),
    {"train": np.arange(recipe.train_size, dtype=np.int32)},
    batch_size=recipe.batch_size,
    eval_batch_size=16,
    seed=0,
    mesh=recipe.mesh,
  )


def start(recipe):
  state = state_lib.init(recipe, setup_lib.initial_key(0))
  if recipe.image_dtype == jnp.float64:
    where = state_lib.shardings(recipe, state)
    state = mesh_lib.place(toys.widen(state), where)
  return state


@pytest.mark.parametrize(
  ("data", "peer"), [pytest.param(1, 1, marks=pytest.mark.long), (2, 2)]
)
def test_chunks_equal_single_steps(data, peer):
  with jax.enable_x64(True):
    recipe = toys.recipe(data=data, peer=peer, dtype=jnp.float64)
    results = []
    for chunked, stops in ((False, (7,)), (True, (1, 6, 7))):
      state = start(recipe)
      runner = Runner(
        recipe, source(recipe), state, jax.random.key(1), chunked=chunked
      )
      first = 0
      for last in stops:
        state = runner.run(state, first, last)
        first = last
      results.append((jax.device_get(state), runner.measured()))
  assert int(results[0][0].step) == 7
  runs.assert_close(results[1], results[0], rtol=1e-12)


def test_quick_chunks_grow_and_compile_once():
  recipe = toys.recipe("independent")
  state = start(recipe)
  runner = Runner(
    recipe, source(recipe), state, jax.random.key(1), chunked=True
  )
  lengths, step = [], 0
  while step < recipe.total_steps:
    last = min(step + runner.most_steps, recipe.total_steps)
    lengths.append(last - step)
    state = runner.run(state, step, last)
    seconds = runner.compile_seconds
    step = last
  assert recipe.total_steps == 10
  assert lengths == [1, 1, 2, 4, 2]
  assert runner.compile_seconds == seconds
  assert runner.images_per_second > 0


@pytest.mark.parametrize("name", toys.OF_CLASSES)
def test_equal_setups_have_one_program(name):
  kind = methods.make(name).needs.kind or "replicas"
  one, again, other = (
    toys.recipe(name, kind=kind, batch_size=size) for size in (16, 16, 8)
  )
  assert one == again and one != other
  program = once.jitted(steps.train_step, one)
  assert once.jitted(steps.train_step, again) is program
  assert once.jitted(steps.train_step, other) is not program
  assert once.jitted(steps.eval_step, one) is not program
  # What cannot be compared is not found again.
  assert once.jitted(sum, [one]) is not once.jitted(sum, [one])


def test_long_chunks_shrink(monkeypatch):
  recipe = toys.recipe("independent")
  state = start(recipe)
  runner = Runner(
    recipe, source(recipe), state, jax.random.key(1), chunked=True
  )
  state = runner.run(state, 0, 1)
  runner.most_steps = 4
  monkeypatch.setattr("okd_jax.training.runner._SECONDS", (-2.0, -1.0))
  runner.run(state, 1, 5)
  assert runner.most_steps == 2


def test_chunks_need_data_in_memory():
  recipe = toys.recipe("independent")
  state = start(recipe)
  with pytest.raises(ValueError, match="needs the data set on the device"):
    Runner(recipe, object(), state, jax.random.key(1), chunked=True)
