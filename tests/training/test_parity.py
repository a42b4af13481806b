"""Twenty steps equal those of a PyTorch reference written from the papers.

PyTorch is a requirement of the benchmarks only: requirements-bench.txt.
"""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax import backbones
from okd_jax.devices import mesh
from okd_jax.training import state as state_lib
from okd_jax.training.optim import Optim
from okd_jax.training.setup import initial_key, Setup
from okd_jax.weights import torch as interop
import runs
import toys

torch = pytest.importorskip("torch", reason="needs requirements-bench.txt")
torch_reference = importlib.import_module("benchmarks.torch_reference")

STEPS, BATCH, PEERS, RAMPUP = 20, 8, 3, 3
INFO = dataclasses.replace(
  toys.INFO, image_shape=(16, 16, 3), mean=(0.5,) * 3, std=(0.25,) * 3
)


class Fixed(Setup):
  """Without random augmentation; the views are shifted images."""

  def augment(self, batch, key):
    batch = self.task.normalize(batch)
    if not self.method.needs.views:
      return batch
    shifts = range(self.peers.num_peers)
    views = [jnp.roll(batch.image, shift, axis=2) for shift in shifts]
    return dataclasses.replace(batch, image=jnp.stack(views))


def recipe(method, kind, net):
  made = toys.recipe(
    method,
    kind=kind,
    num_peers=PEERS,
    net=backbones.make(net, INFO.num_classes),
    info=INFO,
    sgd=Optim(),
    epochs=300,
    batch_size=BATCH,
    train_size=5 * BATCH,
    rampup_epochs=RAMPUP,
    dtype=jnp.float64,
  )
  return Fixed(**vars(made))


def trees(recipe, group, part):
  """Our variables and the entries of a state dict, network by network."""
  for i, tail in enumerate(group.tails):
    trunk = group.trunks[min(i, len(group.trunks) - 1)]
    theirs = torch.nn.ModuleDict({"trunk": trunk, "tail": tail}).state_dict()
    _, ours = recipe.peers.extract(part, i)
    yield ours, {name: value.numpy() for name, value in theirs.items()}


def variables(tree, part):
  return {"params": tree.params[part], **tree.memory[part]}


def copy_weights(recipe, state, group, head):
  for i, (ours, theirs) in enumerate(
    trees(recipe, group, variables(state, "peers"))
  ):
    written = interop.to_torch(jax.device_get(ours), like=theirs)
    for part, modules in (("trunk", group.trunks), ("tail", group.tails)):
      modules[min(i, len(modules) - 1)].load_state_dict(
        {
          name.removeprefix(f"{part}."): torch.tensor(value)
          for name, value in written.items()
          if name.startswith(f"{part}.")
        }
      )
  for name, leaves in state.params["method"].items():
    module = getattr(head, name)
    module.weight.data = torch.tensor(np.array(leaves["kernel"]).T.copy())
    if "bias" in leaves:
      module.bias.data = torch.tensor(np.array(leaves["bias"]))


def assert_equal(recipe, tree, group, head):
  for ours, theirs in trees(recipe, group, variables(tree, "peers")):
    assert_close(interop.load_torch(jax.device_get(ours), theirs), ours)
  for name, leaves in tree.params["method"].items():
    module = getattr(head, name)
    assert_close(leaves["kernel"].T, module.weight.detach().numpy())


def assert_close(actual, desired):
  def close(path, a, b):
    where = jax.tree_util.keystr(path)
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9, err_msg=where)

  jax.tree_util.tree_map_with_path(close, actual, desired)


@pytest.mark.parametrize(
  ("method", "kind", "net"),
  [
    ("okddip", "replicas", "resnet8"),
    ("okddip", "branches", "resnet8"),
    ("dml", "replicas", "resnet8"),
    ("pcl", "branches", "resnet8"),
  ],
)
def test_twenty_steps_equal_the_reference(method, kind, net):
  rng = np.random.default_rng(0)
  with jax.enable_x64(True):
    ours = recipe(method, kind, net)
    state = state_lib.init(ours, initial_key(0))
    where = state_lib.shardings(ours, state)
    state = mesh.place(toys.widen(state), where)
    theirs = torch_reference.make(method, net, kind, PEERS, INFO.num_classes)
    theirs.modules.double()
    copy_weights(ours, state, theirs.group, theirs.method)
    if theirs.averaged is not None:
      theirs.averaged.double().load_state_dict(theirs.modules.state_dict())
    step_fn = runs.jitted(ours, state)
    for i in range(STEPS):
      batch = toys.batch(i, BATCH)
      image = rng.integers(0, 256, (BATCH, *INFO.image_shape), dtype=np.uint8)
      batch = dataclasses.replace(batch, image=image)
      seen = ours.augment(batch, None).image
      state, measured = step_fn(state, batch, jax.random.key(0), None)
      # Ours is computed in float32, which the networks would amplify.
      rampup = float(measured["rampup"])
      assert rampup == pytest.approx(torch_reference.rampup(i // 5, RAMPUP))
      loss = theirs.step(
        torch.tensor(np.moveaxis(np.asarray(seen), -1, -3)),
        torch.tensor(batch.target).long(),
        rampup,
      )
      total = sum(np.sum(term) for term in measured["terms"].values())
      np.testing.assert_allclose(total, loss, rtol=1e-6, err_msg=f"step {i}")
    assert_equal(ours, state, theirs.group, theirs.method)
    if state.average is not None:
      assert_equal(ours, state.average, *theirs.averaged)
