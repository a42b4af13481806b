"""Networks by their shapes, and small ones beside PyTorch's.

benchmarks/torch_networks.py writes tests/vectors/networks.json.
"""

import functools
import json
import pathlib

import fingerprints
import jax
import jax.numpy as jnp
import numpy as np

from okd_jax import backbones
from okd_jax.weights import torch as interop

_PATH = pathlib.Path(__file__).parents[1] / "vectors" / "networks.json"
CASES = json.loads(_PATH.read_text())


@functools.cache
def _traced(net, image):
  x = jax.ShapeDtypeStruct((2, *image), jnp.float32)
  return jax.eval_shape(
    lambda x: net.init_with_output(jax.random.key(0), x, train=False), x
  )


def outputs_of(net, image):
  return _traced(net, image)[0]


def shapes_of(net, image):
  return _traced(net, image)[1]


def count(net, image=(32, 32, 3)):
  return backbones.count_parameters(shapes_of(net, image)["params"])


def names_of(tree):
  return {
    jax.tree_util.keystr(path): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def assert_parts_make_the_whole(net, image):
  """Variables of trunk and tail are those of the whole, for every split."""
  expected = shapes_of(net, image)
  for split in range(net.num_stages + 1):
    trunk, tail = (net.clone(split=split, part=p) for p in ("trunk", "tail"))
    try:
      trunk.check()
      tail.check()
    except ValueError:
      continue
    hidden = outputs_of(trunk, image).shape[1:]
    parts = [shapes_of(trunk, image), shapes_of(tail, hidden)]
    for collection in expected:
      one, other = (part.get(collection, {}) for part in parts)
      assert not one.keys() & other.keys()
      whole = names_of({**one, **other})
      assert whole == names_of(expected[collection]), split


def state_dict(name):
  return fingerprints.state_dict(CASES[name]["layers"])


def run(name, net, x=None):
  """A training pass of four images with the variables of a state dict."""
  size = CASES[name]["size"]
  x = fingerprints.images(4, size) if x is None else x
  with jax.enable_x64(True):
    shapes = shapes_of(net.clone(part="whole"), (size, size, 3))
    variables = interop.load_torch(shapes, state_dict(name))
    # Operation by operation: compiling a whole network takes longer.
    return net.apply(variables, x, train=True, mutable=["batch_stats"])[0]


def check_against_torch(name, net):
  """Compares a training pass, through trunk and tail, with PyTorch's.

  Returns the outputs, whose features are as expected already.
  """
  hidden = run(name, net.clone(part="trunk"))
  outputs = run(name, net.clone(part="tail"), hidden)
  assert_close(outputs.features[:, :16], CASES[name]["features"])
  return outputs


def check_logits_against_torch(name, net):
  outputs = check_against_torch(name, net)
  assert_close(outputs.logits, CASES[name]["outputs"])


def assert_close(ours, theirs):
  np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)
