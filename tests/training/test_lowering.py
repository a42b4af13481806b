"""The training step of every method lowers for accelerators on any machine.

Only lowering: nothing is compiled and no accelerator is needed.
"""

import functools

import jax
import jax.numpy as jnp
import pytest
import quick

from okd_jax import methods
from okd_jax.data.sources.flat import Flat
from okd_jax.training import (
  chunk,
  measures as measures_lib,
  state as state_lib,
  step as steps,
)
import runs
import toys

PLATFORMS = ("tpu", "cuda")


def arguments(recipe):
  """What a step takes, or its shapes."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  taught = None
  if recipe.teacher is not None:
    taught = jax.eval_shape(recipe.teacher.init, key, recipe.example_images())
  return (
    state_lib.abstract(recipe, jax.random.key(0)),
    toys.batch(0, recipe.batch_size),
    key,
    taught,
    runs.train_labels(recipe),
  )


def lowered(fn, *args):
  return jax.export.export(jax.jit(fn), platforms=PLATFORMS)(*args)


# The conformance suite lowers every method with its peers in one program.
@pytest.mark.parametrize(
  "method",
  [
    name if name == "okddip" else pytest.param(name, marks=pytest.mark.slow)
    for name in toys.OF_CLASSES
  ],
)
def test_train_step_lowers(method):
  kind = methods.make(method).needs.kind or "replicas"
  recipe = toys.recipe(method, kind=kind)
  exported = lowered(
    functools.partial(steps.train_step, recipe), *arguments(recipe)
  )
  assert exported.platforms == PLATFORMS


@pytest.mark.parametrize(
  "dtype", quick.only([jnp.bfloat16], [jnp.float32, jnp.bfloat16])
)
def test_chunk_of_steps_lowers(dtype):
  net = toys.Toy(toys.INFO.num_classes, dtype=dtype)
  recipe = toys.recipe("okddip", kind="branches", net=net)
  state, batch, key, *_ = arguments(recipe)
  rows = jax.ShapeDtypeStruct((4, recipe.batch_size), jnp.int32)
  step_fn = functools.partial(steps.train_step, recipe)
  measures = chunk.measures_like(step_fn, state, batch, key)
  exported = lowered(
    functools.partial(chunk.many_steps, recipe, step_fn),
    *(state, measures_lib.from_json({}, measures)[0]),
    *(Flat.of(batch.image), batch.target, rows, jnp.int32(3), key),
  )
  assert exported.platforms == PLATFORMS
