"""Ten steps of OKDHP equal those of a PyTorch reference.

PyTorch is a requirement of the benchmarks only: requirements-bench.txt.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_parity as parity
import test_parity_systems as systems

from okd_jax.backbones.hourglass import Hourglass
import runs

# They import PyTorch.
torch_systems, torch = systems.torch_systems, parity.torch
torch_okdhp = importlib.import_module("benchmarks.torch_okdhp")
pose = importlib.import_module("benchmarks.pose")
B, J, WIDTH = 4, 3, 8


def copy_aggregation(ours, theirs):
  """Ours in PyTorch's shapes, as arrays by name."""
  for name, module in theirs.convs.items():
    kernel = np.moveaxis(np.array(ours[name]["kernel"]), (0, 1), (2, 3))
    module.weight.data = torch.tensor(kernel.swapaxes(0, 1).copy())
    module.bias.data = torch.tensor(np.array(ours[name]["bias"]))
  for name, module in (("hidden", theirs.hidden), *theirs.branches.items()):
    module.weight.data = torch.tensor(np.array(ours[name]["kernel"]).T.copy())
    module.bias.data = torch.tensor(np.array(ours[name]["bias"]))


@pytest.mark.parametrize("divide_by_pixels", [True, False])
def test_okdhp_of_two_hourglasses(divide_by_pixels):
  rng = np.random.default_rng(0)
  with jax.enable_x64(True):
    ours = pose.recipe(
      Hourglass(J, stacks=2, split=0, width=WIDTH, depth=1),
      2,
      size=16,
      batch=B,
      dtype=jnp.float64,
      kd_weight=2.0,
      divide_by_pixels=divide_by_pixels,
    )
    state = systems.started(ours)
    theirs = torch_okdhp.OKDHP(2, J, WIDTH, 1, 2).double()
    for i, net in enumerate(theirs.nets):
      _, own = ours.peers.extract(parity.variables(state, "peers"), i)
      like = {name: v.numpy() for name, v in net.state_dict().items()}
      written = parity.interop.to_torch(jax.device_get(own), like=like)
      net.load_state_dict({n: torch.tensor(v) for n, v in written.items()})
    copy_aggregation(state.params["method"]["aggregation"], theirs.aggregation)
    optimizer = torch_systems.optimizer(theirs, pose.RATE)
    step_fn = runs.jitted(ours, state)
    for i in range(10):
      given = pose.random_batch(ours, rng)
      state, measured = step_fn(state, given, jax.random.key(0), None)
      loss = theirs(
        torch.tensor(np.moveaxis(given.image, -1, 1)),
        *map(torch.tensor, given.target.values()),
        2.0 * float(measured["rampup"]),
        divide_by_pixels,
      )
      systems.update(optimizer, loss)
      np.testing.assert_allclose(
        systems.loss_of(measured), loss.item(), rtol=1e-6, err_msg=f"{i}"
      )
    for i, net in enumerate(theirs.nets):
      _, own = ours.peers.extract(parity.variables(state, "peers"), i)
      after = {name: v.numpy() for name, v in net.state_dict().items()}
      read = parity.interop.load_torch(jax.device_get(own), after)
      parity.assert_close(read, own)
    name = "branch1"
    found = state.params["method"]["aggregation"][name]["kernel"].T
    expected = theirs.aggregation.branches[name].weight.detach().numpy()
    parity.assert_close(found, expected)
