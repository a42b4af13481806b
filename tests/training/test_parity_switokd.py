"""Twenty steps of SwitOKD equal those of a PyTorch reference.

PyTorch is a requirement of the benchmarks only: requirements-bench.txt.
"""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_parity as parity

from okd_jax import backbones, groups, methods
from okd_jax.devices import mesh as mesh_lib
from okd_jax.training import state as state_lib
from okd_jax.training.optim import Optim
from okd_jax.training.setup import initial_key
import runs
import toys

torch_switokd = importlib.import_module("benchmarks.torch_switokd")
torch = parity.torch
INFO = parity.INFO


def recipe(names, num_teachers, pause_statistics):
  method = methods.make(
    "switokd", num_teachers=num_teachers, pause_statistics=pause_statistics
  )
  nets = [backbones.make(name, INFO.num_classes) for name in names]
  made = toys.recipe(
    method,
    peers=groups.mixed(nets, mesh_lib.make_mesh(1, 1)),
    info=INFO,
    sgd=Optim(nesterov=False),
    epochs=300,
    batch_size=parity.BATCH,
    train_size=5 * parity.BATCH,
    dtype=jnp.float64,
  )
  return parity.Fixed(**vars(made))


@pytest.mark.parametrize(
  ("names", "num_teachers", "pause_statistics"),
  [
    (("resnet20", "resnet8"), 1, False),
    (("resnet8", "resnet8"), 1, True),
    (("resnet8", "resnet8", "resnet8"), 1, False),
    (("resnet8", "resnet8", "resnet8"), 2, False),
  ],
)
def test_twenty_steps_equal_the_reference(
  names, num_teachers, pause_statistics
):
  rng = np.random.default_rng(0)
  found = []
  with jax.enable_x64(True):
    ours = recipe(names, num_teachers, pause_statistics)
    state = state_lib.init(ours, initial_key(0))
    where = state_lib.shardings(ours, state)
    state = mesh_lib.place(toys.widen(state), where)
    theirs = torch_switokd.Trainer(
      names, num_teachers, INFO.num_classes, keep_statistics=pause_statistics
    )
    theirs.modules.double()
    parity.copy_weights(ours, state, theirs, None)
    theirs.start(learning_rate=0.1)
    step_fn = runs.jitted(ours, state)
    for i in range(parity.STEPS):
      batch = toys.batch(i, parity.BATCH)
      shape = (parity.BATCH, *INFO.image_shape)
      image = rng.integers(0, 256, shape, dtype=np.uint8)
      batch = dataclasses.replace(batch, image=image)
      seen = ours.augment(batch, None).image
      state, measured = step_fn(state, batch, jax.random.key(0), None)
      total, paused = theirs.step(
        torch.tensor(np.moveaxis(np.asarray(seen), -1, -3)),
        torch.tensor(batch.target).long(),
      )
      np.testing.assert_array_equal(measured["summaries"]["paused"], paused)
      found.append(paused)
      terms = measured["terms"].values()
      np.testing.assert_allclose(
        sum(np.sum(term) for term in terms),
        total,
        rtol=1e-6,
        err_msg=f"step {i}",
      )
    parity.assert_equal(ours, state, theirs, None)
  # There are paused steps, and others of every teacher.
  assert np.any(found) and not np.all(found, 0).any(), found
