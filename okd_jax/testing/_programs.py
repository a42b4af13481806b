"""Checks of a method's programs, which are traced and not run."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from okd_jax import core, training, trees
from okd_jax.testing._checks import name_of
from okd_jax.testing._training import arguments_of, net_of, setup_of
from okd_jax.training import state as state_lib, step as steps


def state_stays_as_it_is(method: core.Method) -> None:
  """Shapes and types of the state do not change, with bfloat16 networks."""
  before, traced = _traced(method)
  after, _ = traced.out_info
  for (leaf, old), new in zip(
    trees.named(before), jax.tree.leaves(after), strict=True
  ):
    if (old.shape, old.dtype) != (new.shape, new.dtype):
      raise AssertionError(
        f"{name_of(method)} turns {leaf} from {old.dtype} {old.shape} into "
        f"{new.dtype} {new.shape}; cast what is stored to the type that it has "
        "at first."
      )


def lowers_for_accelerators(method: core.Method) -> None:
  """The step can be lowered for CUDA and TPU; nothing is compiled."""
  _, traced = _traced(method)
  try:
    traced.lower(lowering_platforms=("tpu", "cuda"))
  except NotImplementedError as error:
    raise AssertionError(
      f"{name_of(method)} has no program for TPU and CUDA: {error}"
    ) from error


def predictions_are_of_any_batch(method: core.Method) -> None:
  """Predictions can be exported for every size of the batch."""
  setup = setup_of(method)
  state = state_lib.abstract(setup, jax.random.key(0))
  image = setup.task.blank(1).image
  (size,) = jax.export.symbolic_shape("batch")

  def predict(params, memory, images):
    blank = setup.task.blank(images.shape[0])
    batch = dataclasses.replace(blank, image=images)
    return steps.predict_normalized(setup, params, memory, batch)

  images = jax.ShapeDtypeStruct((size, *image.shape[1:]), image.dtype)
  try:
    jax.eval_shape(predict, state.params, state.memory, images)
  except (TypeError, jax.errors.InconclusiveDimensionOperation) as error:
    if "_DimExpr" not in str(error) and isinstance(error, TypeError):
      raise
    raise AssertionError(
      f"{name_of(method)} cannot be exported for every size of the batch "
      f"({error}); take sizes from x.shape, not len(x), and use that of the "
      "batch only for shapes."
    ) from error


@functools.cache
def _traced(method: core.Method) -> tuple[Any, Any]:
  """The shapes of the state, and the traced step, with bfloat16 networks."""
  setup = setup_of(method, net=net_of(method, dtype=jnp.bfloat16))
  before = state_lib.abstract(setup, jax.random.key(0))
  step = jax.jit(functools.partial(training.train_step, setup))
  return before, step.trace(*arguments_of(setup, before))
