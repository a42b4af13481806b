"""Runs the training step of a setup a few times, for tests."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
import numpy as np

from okd_jax.devices import mesh as mesh_lib
from okd_jax.groups import once
from okd_jax.training import state as state_lib, step as steps
from okd_jax.training.setup import initial_key, Setup
import toys


def jitted(setup: Setup, state: Any) -> Any:
  """The training step, sharded and with donated state, as in a run."""
  return once.jitted(
    *(steps.train_step, setup),
    donate_argnums=(0,),
    out_shardings=(state_lib.shardings(setup, state), None),
  )


def on_mesh(setup: Setup, batch: Any) -> Any:
  """Places a batch as a data source does."""
  return jax.device_put(batch, NamedSharding(setup.mesh, P("data")))


def teacher(setup: Setup) -> Any:
  """Variables of a frozen teacher, or None."""
  if setup.teacher is None:
    return None
  made = setup.teacher.init(jax.random.key(7), setup.example_images())
  made = toys.widen(made) if setup.image_dtype == jnp.float64 else made
  return mesh_lib.place(
    made,
    mesh_lib.shardings(setup.teacher.mesh, setup.teacher.specs(made)),
  )


def train_labels(setup: Setup) -> Any:
  """Labels of all training examples, or None."""
  if not setup.method.needs.train_labels:
    return None
  labels = np.full(setup.num_examples, -1, np.int32)
  labels[: setup.train_size] = (
    np.arange(setup.train_size) % toys.INFO.num_classes
  )
  return mesh_lib.place(labels, NamedSharding(setup.mesh, P()))


def start(setup: Setup, seed: int = 0) -> Any:
  """The initial state; float64 if the images are."""
  state = state_lib.init(setup, initial_key(seed))
  if setup.image_dtype == jnp.float64:
    where = state_lib.shardings(setup, state)
    state = mesh_lib.place(toys.widen(state), where)
  return state


def train(setup: Setup, num_steps: int, seed: int = 0) -> tuple[Any, Any]:
  """Returns host copies of the last state and the last measures."""
  state = start(setup, seed)
  step_fn = jitted(setup, state)
  given = (jax.random.key(1), teacher(setup), train_labels(setup))
  for i in range(num_steps):
    batch = on_mesh(setup, toys.batch(i, setup.batch_size))
    state, measured = step_fn(state, batch, *given)
  return jax.device_get((state, measured))


def train_from(setup: Setup, state: Any, num_steps: int = 5) -> Any:
  """Host copies of state and measures after some steps from a given state."""
  where = state_lib.shardings(setup, state)
  state = mesh_lib.place(state, where)
  step = jitted(setup, state)
  given = (jax.random.key(1), teacher(setup), train_labels(setup))
  for i in range(num_steps):
    batch = on_mesh(setup, toys.batch(i, setup.batch_size))
    state, measured = step(state, batch, *given)
  return jax.device_get((state, measured))


def assert_close(actual: Any, desired: Any, rtol: float) -> None:
  """Compares two trees, naming the leaf that differs."""
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(actual),
    jax.tree.leaves(desired),
    strict=True,
  ):
    np.testing.assert_allclose(
      a, b, rtol=rtol, atol=rtol, err_msg=jax.tree_util.keystr(path)
    )


def forget(method: Any, variables: Any) -> Any:
  """Variables of a method with not-a-number for what examples left there."""

  def blank(leaf):
    if jnp.issubdtype(leaf.dtype, jnp.floating):
      return jnp.full_like(leaf, jnp.nan)
    return jnp.full_like(leaf, -1)

  return {
    name: jax.tree.map(blank, tree)
    if name in method.needs.per_example
    else tree
    for name, tree in variables.items()
  }
