"""Small networks in PyTorch's layouts: tests/vectors/networks.json.

benchmarks/torch_networks.py writes the file.
"""

import json
import pathlib

import fingerprints
import jax
import numpy as np
from test_backbones import shapes_of

from okd_jax import interop

_PATH = pathlib.Path(__file__).parent / "vectors" / "networks.json"
CASES = json.loads(_PATH.read_text())


def state_dict(name):
  return fingerprints.state_dict(CASES[name]["layers"])


def loaded(name, net):
  """Variables of `net` from the state dict, in float64."""
  size = CASES[name]["size"]
  return interop.load_torch(shapes_of(net, (size, size, 3)), state_dict(name))


def check(name, net):
  """Compares a training pass, part by part, with PyTorch's.

  Returns the outputs.
  """
  case = CASES[name]
  with jax.enable_x64(True):
    variables = loaded(name, net)

    def run(part, x):
      part = net.clone(part=part)
      return part.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    x = fingerprints.images(4, case["size"])
    outputs = run("tail", run("trunk", x))
  features = outputs.features[:, :16]
  np.testing.assert_allclose(features, case["features"], rtol=1e-7, atol=1e-9)
  return outputs


def check_classifier(name, net):
  logits = check(name, net).logits
  np.testing.assert_allclose(
    logits, CASES[name]["outputs"], rtol=1e-7, atol=1e-9
  )
