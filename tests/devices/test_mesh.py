"""The mesh, and what the training step sends between its devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from benchmarks.collectives import collectives
from okd_jax import core
from okd_jax.devices import mesh as mesh_lib
import runs
import toys


def test_default_mesh_puts_every_device_on_data():
  assert dict(mesh_lib.make_mesh().shape) == {"data": 8, "peer": 1}
  assert dict(mesh_lib.make_mesh(peer=4).shape) == {"data": 2, "peer": 4}


@pytest.mark.parametrize(
  ("data", "peer", "words"),
  [
    (-1, 3, "must divide the number of devices, 8"),
    (8, 2, "more than the 8 device"),
    (0, 1, "must be positive"),
    (-1, 0, "must be positive"),
  ],
)
def test_sizes_that_do_not_fit_are_refused(data, peer, words):
  with pytest.raises(ValueError, match=words):
    mesh_lib.make_mesh(data, peer)


def test_placed_arrays_share_no_memory_with_their_source():
  mesh = mesh_lib.make_mesh(1)
  value = np.ones(1024, np.float32)
  where = mesh_lib.shardings(mesh, {"a": jax.P(), "b": jax.P()})
  placed = mesh_lib.place({"a": value, "b": value}, where)
  value[:] = 2
  assert float(placed["a"][0]) == 1.0
  assert (
    placed["a"].unsafe_buffer_pointer() != placed["b"].unsafe_buffer_pointer()
  )


@pytest.mark.parametrize(
  ("kind", "data", "peer"),
  [
    pytest.param("replicas", 4, 2, marks=pytest.mark.long),
    ("branches", 4, 2),
    pytest.param("branches", 8, 1, marks=pytest.mark.long),
  ],
)
@pytest.mark.checklist("J2")
def test_step_sends_no_activation_maps(kind, data, peer, capsys):
  recipe = toys.recipe("okddip", kind=kind, data=data, peer=peer)
  state = runs.start(recipe)
  step = runs.jitted(recipe, state).lower(
    state,
    runs.on_mesh(recipe, toys.batch(0, recipe.batch_size)),
    jax.random.key(0),
    None,
  )
  found = collectives(step.compile())
  with capsys.disabled():
    print(f"\n{kind}, {data} x {peer}:")
    for one in sorted(found, key=lambda c: -c.size):
      print(f"  {one.size:6d} bytes {one.kind} {one.shapes} {one.source[-60:]}")
  assert found, "a step over several devices must communicate"

  height, width, _ = toys.INFO.image_shape
  for one in found:
    for shape in one.shapes:
      assert (height, width) not in zip(shape, shape[1:], strict=False), one

  # Gradients once, statistics forward and backward (mean and variance, each
  # there and back), and per example a few times logits and features.
  def size(tree):
    return sum(
      leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
    )

  width = toys.Toy(toys.INFO.num_classes).width
  examples = recipe.batch_size * recipe.peers.num_peers
  per_example = 4 * (toys.INFO.num_classes + width)
  allowed = (
    size(state.params) + 4 * size(state.memory) + 6 * examples * per_example
  )
  assert sum(one.size for one in found) <= allowed


@pytest.mark.parametrize(
  "kind", quick.only(["branches"], ["replicas", "branches"])
)
def test_every_mesh_trains_alike(kind):
  # 4 x 2 is in the conformance suite, for every method.
  with jax.enable_x64(True):
    one, *others = [
      runs.train(
        toys.recipe(
          "okddip", kind=kind, data=data, peer=peer, dtype=jnp.float64
        ),
        5,
      )
      for data, peer in ((1, 1), (8, 1), (2, 4))
    ]
    for other in others:
      runs.assert_close(other, one, 1e-9)


def test_batch_is_a_tree_of_arrays():
  batch = toys.batch(0)
  assert isinstance(batch, core.Batch)
  assert len(jax.tree.leaves(batch)) == 4
