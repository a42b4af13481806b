"""What the devices run in one call: a step of each group, or many steps."""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P

from okd_jax.core import Array, Batch, Variables
from okd_jax.devices.mesh import DATA
from okd_jax.training import measures as running, step as steps
from okd_jax.training.measures import Measures
from okd_jax.training.setup import Recipe
from okd_jax.training.state import TrainState

States = tuple[TrainState, ...]
Sums = tuple[Measures, ...]


class Programs:
  """Training steps of one group, or of several at once.

  Several groups differ in their seeds alone, and each has batches of its own.
  The methods are to be compiled by the caller.
  """

  def __init__(self, recipe: Recipe):
    self._recipe = recipe
    # One function for all, so that it is traced once.
    self._step = jax.jit(functools.partial(steps.train_step, recipe))

  def measures(
    self,
    state: TrainState,
    batch: Batch,
    key: Array,
    teacher: Variables | None = None,
  ) -> Measures:
    """The shapes of what is measured at one step.

    Args:
      state: of one group.
      batch: of one group, or its shapes and shardings.
      key: of the run.
      teacher: variables of the frozen teachers, if the method needs them.
    """
    after = jax.eval_shape(self._step, state, batch, key, teacher)
    measured: Measures = after[1]
    return measured

  def batch_from(self, images: Array) -> Batch:
    """Shapes and shardings of the batches that `many_steps` gathers.

    Args:
      images: uint8 [N, H, W, c], the data set.
    """
    split = NamedSharding(self._recipe.mesh, P(DATA))

    def like(dtype, *shape):
      size = self._recipe.batch_size
      return jax.ShapeDtypeStruct((size, *shape), dtype, sharding=split)

    return Batch(
      image=like(images.dtype, *images.shape[1:]),
      target=like(jnp.int32),
      index=like(jnp.int32),
      mask=like(bool),
    )

  def one_step(
    self,
    states: States,
    sums: Sums,
    batches: tuple[Batch, ...],
    keys: tuple[Array, ...],
    teacher: Variables | None = None,
  ) -> tuple[States, Sums]:
    """Makes one update of each group, as `steps.train_step` does.

    Args:
      states: before the update.
      sums: of measures, see `okd_jax.training.measures`.
      batches: one a group.
      keys: of the runs.
      teacher: variables of the frozen teachers, if the method needs them.

    Returns:
      The states after it, and the sums with its measures.
    """
    many = len(states)
    update = self._update(many, _pack(keys), teacher)
    state, total = update(_pack(states), _pack(sums), _pack(batches))
    return _unpack(state, many), _unpack(total, many)

  def many_steps(
    self,
    states: States,
    sums: Sums,
    images: Array,
    labels: Array,
    rows: Array,
    length: Array,
    keys: tuple[Array, ...],
    teacher: Variables | None = None,
  ) -> tuple[States, Sums]:
    """Makes the first `length` updates of each group, in a loop.

    Args:
      states: before the updates.
      sums: of measures, see `okd_jax.training.measures`.
      images: uint8 [N, H, W, c], the data set that all share.
      labels: int32 [N].
      rows: int32 [groups, n, B], which examples make up each batch.
      length: int32 scalar, up to n; compiled once for all.
      keys: of the runs.
      teacher: variables of the frozen teachers, if the method needs them.

    Returns:
      The states after them, and the sums with their measures.
    """
    many = len(states)
    update = self._update(many, _pack(keys), teacher)

    def gather(index):
      batch = Batch(
        image=jnp.take(images, index, axis=0),
        target=jnp.take(labels, index),
        index=index,
        mask=jnp.ones(index.shape, bool),
      )
      split = NamedSharding(self._recipe.mesh, P(DATA))
      return jax.lax.with_sharding_constraint(batch, split)

    def body(i, carry):
      return update(*carry, _pack([gather(own) for own in rows[:, i]]))

    state, total = jax.lax.fori_loop(
      0, length, body, (_pack(states), _pack(sums))
    )
    return _unpack(state, many), _unpack(total, many)

  def _update(
    self, many: int, key: Array, teacher: Variables | None
  ) -> Callable[..., Any]:
    """The step of all groups; of several, it takes and gives packed trees."""
    step = self._step
    if many > 1:
      step = jax.vmap(step, (0, 0, 0, None))

    def update(state, total, batch):
      state, measured = step(state, batch, key, teacher)
      return state, running.add(total, measured)

    return update


def _pack(trees: Sequence[Any]) -> Any:
  """Stacks the trees of several groups; that of one stays as it is."""
  if len(trees) == 1:
    return trees[0]
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _unpack(tree: Any, many: int) -> tuple[Any, ...]:
  if many == 1:
    return (tree,)
  return tuple(
    jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(many)
  )
