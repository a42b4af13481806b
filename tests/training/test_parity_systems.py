"""Twenty steps of MCL-OKD and OEM equal those of a PyTorch reference.

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
from okd_jax.methods import _contrast
from okd_jax.training import state as state_lib
from okd_jax.training.setup import initial_key
import runs
import toys

torch_systems = importlib.import_module("benchmarks.torch_systems")
torch, torch_reference = parity.torch, parity.torch_reference
INFO, NUM_NEGATIVES, EMBEDDING_SIZE = parity.INFO, 12, 16


def started(setup):
  state = state_lib.init(setup, initial_key(0))
  return mesh_lib.place(toys.widen(state), state_lib.shardings(setup, state))


def seen_by(setup, step, rng):
  """A batch of other examples every step, and what networks see of it."""
  batch = toys.batch(step, parity.BATCH)
  shape = (parity.BATCH, *INFO.image_shape)
  image = rng.integers(0, 256, shape, dtype=np.uint8)
  index = rng.permutation(setup.train_size)[: parity.BATCH].astype(np.int32)
  labels = np.asarray(index % INFO.num_classes, np.int32)
  batch = dataclasses.replace(batch, image=image, index=index, target=labels)
  seen = np.asarray(setup.augment(batch, None).image)
  return batch, torch.tensor(np.moveaxis(seen, -1, -3))


def loss_of(measured):
  return sum(np.sum(term) for term in measured["terms"].values())


def update(optimizer, loss):
  optimizer.zero_grad(set_to_none=True)
  loss.backward()
  optimizer.step()


def test_mcl_okd_and_its_banks():
  rng = np.random.default_rng(0)
  method = methods.make(
    "mcl_okd", num_negatives=NUM_NEGATIVES, embedding_size=EMBEDDING_SIZE
  )
  with jax.enable_x64(True):
    ours = parity.recipe(method, "branches", "resnet8")
    state = started(ours)
    rows = np.array(state.memory["method"]["bank"]["rows"])
    group = torch_reference.Group(
      "resnet8", "branches", parity.PEERS, INFO.num_classes, 3
    )
    theirs = torch_systems.MCLOKD(
      group, torch.tensor(np.swapaxes(rows, 0, 1).copy())
    ).double()
    parity.copy_weights(ours, state, group, theirs.heads)
    optimizer = torch_systems.optimizer(theirs, 0.1)
    step_fn = runs.jitted(ours, state)
    labels = jnp.asarray(runs.train_labels(ours))
    key = jax.random.key(0)
    for i in range(parity.STEPS):
      batch, seen = seen_by(ours, i, rng)
      # What is drawn at random is given.
      negatives = _contrast.draw_negatives(
        jax.random.split(jax.random.fold_in(key, i), 3)[2],
        labels,
        jnp.asarray(batch.index),
        NUM_NEGATIVES,
        replacement=False,
      )
      state, measured = step_fn(state, batch, key, None, labels)
      loss = theirs(
        seen,
        torch.tensor(batch.target).long(),
        torch.tensor(batch.index).long(),
        torch.tensor(np.array(negatives)).long(),
        ours.train_size,
      )
      update(optimizer, loss)
      np.testing.assert_allclose(
        loss_of(measured), loss.item(), rtol=1e-6, err_msg=f"step {i}"
      )
    parity.assert_equal(ours, state, group, theirs.heads)
    after = np.array(state.memory["method"]["bank"]["rows"])
    parity.assert_close(np.swapaxes(after, 0, 1), theirs.bank.numpy())
    assert np.abs(after - rows).max() > 0.1


@pytest.mark.parametrize("base_grad", ["all", "pseudo_teacher"])
def test_oem(base_grad):
  rng = np.random.default_rng(0)
  method = methods.make("oem", base_grad=base_grad)
  nets = backbones.students("resnet8", INFO.num_classes, 3, split=0)
  with jax.enable_x64(True):
    group = groups.different_branches(
      nets,
      mesh_lib.make_mesh(1, 1),
      trunk_gradient=method.needs.trunk_gradient,
      example=jnp.zeros((1, *INFO.image_shape)),
    )
    like = parity.recipe(method, "branches", "resnet8")
    ours = dataclasses.replace(like, peers=group)
    state = started(ours)
    theirs = torch_systems.OEM(
      3, 1, INFO.num_classes, base_grad == "pseudo_teacher"
    ).double()
    parity.copy_weights(ours, state, theirs, theirs.heads)
    optimizer = torch_systems.optimizer(theirs, 0.1)
    step_fn = runs.jitted(ours, state)
    for i in range(parity.STEPS):
      batch, seen = seen_by(ours, i, rng)
      state, measured = step_fn(state, batch, jax.random.key(0), None)
      loss = theirs(seen, torch.tensor(batch.target).long())
      update(optimizer, loss)
      np.testing.assert_allclose(
        loss_of(measured), loss.item(), rtol=1e-6, err_msg=f"step {i}"
      )
    parity.assert_equal(ours, state, theirs, theirs.heads)
