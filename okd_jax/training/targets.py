"""What methods get for averages and teachers when these are not computed.

At initialisation and in evaluation the batch passes only the peers. Methods get
arrays of the shapes of training, so that the shapes of their parameters can
follow a teacher that is wider or deeper than the peers.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from okd_jax.core import Array, Outputs
from okd_jax.devices.mesh import DATA
from okd_jax.training.setup import Setup


def shapes(setup: Setup, outputs: Outputs) -> Outputs:
  """The shapes of a group's outputs with those of averages and teachers.

  Args:
    setup: the setup, which says whether there are any.
    outputs: outputs of the peers, or their shapes.
  """
  peers = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), outputs
  )
  averaged = setup.method.needs.ema_decay is not None
  return dataclasses.replace(
    peers,
    ema=peers if averaged else None,
    teacher=_teacher_shapes(setup, peers),
  )


def blank(setup: Setup, outputs: Outputs) -> Outputs:
  """The outputs of an evaluation, with NaN for averages and teachers."""
  expected = shapes(setup, outputs)
  ema, teacher = jax.tree.map(
    lambda s: jnp.full(s.shape, jnp.nan, s.dtype),
    (expected.ema, expected.teacher),
  )
  return dataclasses.replace(outputs, ema=ema, teacher=teacher)


def teacher_example(setup: Setup) -> Outputs | None:
  """Shapes of the teachers' outputs for one example, without a batch axis."""
  group = setup.teacher
  if group is None:
    return setup.teacher_example
  images = jax.eval_shape(
    lambda: setup.task.blank(group.mesh.shape[DATA]).image
  )

  def forward(key, images):
    variables = group.init(key, setup.example_images())
    return group.apply(variables, images, key, train=False)[0]

  outputs = jax.eval_shape(forward, jax.random.key(0), images)

  def without_batch(leaf, axis):
    shape = (*leaf.shape[:axis], *leaf.shape[axis + 1 :])
    return jax.ShapeDtypeStruct(shape, leaf.dtype)

  return _map(without_batch, outputs)


def to_json(example: Outputs) -> dict[str, Any]:
  """Shapes as JSON holds them."""

  def one(leaf: Any, _: int) -> Any:
    return {"shape": list(leaf.shape), "dtype": leaf.dtype.name}

  mapped = _map(one, example)
  return {
    name: getattr(mapped, name)
    for name in ("logits", "features", "maps", "trunk")
  }


def from_json(saved: dict[str, Any]) -> Outputs:
  """The inverse of `to_json`."""

  def read(value: Any) -> Any:
    if value is None:
      return None
    if isinstance(value, list | tuple):
      return tuple(read(each) for each in value)
    return jax.ShapeDtypeStruct(tuple(value["shape"]), value["dtype"])

  return Outputs(**{name: read(value) for name, value in saved.items()})


def _teacher_shapes(setup: Setup, peers: Outputs) -> Outputs | None:
  if setup.teacher is None and not setup.method.needs.teacher:
    return None
  example = teacher_example(setup)
  if example is None:
    # Runs of earlier releases did not remember their teacher's.
    return peers
  size = peers.logits.shape[1]

  def with_batch(leaf, axis):
    shape = (*leaf.shape[:axis], size, *leaf.shape[axis:])
    return jax.ShapeDtypeStruct(shape, leaf.dtype)

  return _map(with_batch, example)


def _map(fn: Callable[[Array, int], Any], outputs: Outputs) -> Outputs:
  """Applies fn(array, its batch axis) to the outputs of one shared view."""

  def per_peer(value):
    if isinstance(value, tuple):
      return tuple(None if x is None else fn(x, 0) for x in value)
    return fn(value, 1)

  return dataclasses.replace(
    outputs,
    logits=fn(outputs.logits, 1),
    features=per_peer(outputs.features),
    maps=tuple(per_peer(stage) for stage in outputs.maps),
    trunk=None if outputs.trunk is None else fn(outputs.trunk, 0),
  )
