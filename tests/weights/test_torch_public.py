"""Weights of timm and torchvision, by the names that these projects give.

benchmarks/torch_public.py writes tests/vectors/public.json by their classes.
"""

import json
import pathlib

import fingerprints
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from okd_jax.backbones import convnext, imagenet_resnet, mobilenet, vit
from okd_jax.errors import WeightsError
from okd_jax.weights import torch as interop, torch_layers

_PATH = pathlib.Path(__file__).parents[1] / "vectors" / "public.json"
CASES = json.loads(_PATH.read_text())
_MOBILENET = mobilenet.MobileNetV2(
  5, factor=1, groups=(((16, 1, 1),), ((24, 2, 2),)), split=1
)
NETWORKS = {
  "timm/vit": vit.DeiT(5, width=8, heads=2, patch=8, depth=4),
  "timm/vit_mean": vit.ViT(5, width=8, heads=2, patch=8, depth=4),
  "timm/convnext": convnext.ConvNeXt(
    5, blocks=(1, 2, 1, 1), widths=(4, 8, 8, 8)
  ),
  "timm/resnet": imagenet_resnet.ImageNetResNet(
    5,
    blocks=(1, 2, 1, 1),
    widths=(16, 32, 32, 32),
    inner_widths=(4, 8, 8, 8),
  ),
  "timm/mobilenet": _MOBILENET,
  "torchvision/convnext": convnext.ConvNeXt(
    5, blocks=(1, 2), widths=(4, 8), split=1
  ),
  "torchvision/mobilenet": _MOBILENET,
}


def state_dict(name):
  return fingerprints.entries(CASES[name]["entries"])


def shapes_of(net, size=32):
  return jax.eval_shape(
    lambda x: net.init(jax.random.key(0), x, train=False),
    jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32),
  )


@pytest.mark.parametrize(
  "name",
  quick.only(
    (
      "timm/vit_mean",
      "torchvision/convnext",
      "torchvision/mobilenet",
    ),
    NETWORKS,
  ),
)
def test_logits_are_theirs(name):
  state, net = state_dict(name), NETWORKS[name]
  with jax.enable_x64(True):
    variables = interop.load_torch(shapes_of(net), state)
    # A file of safetensors keeps the alphabetical order only.
    alphabetical = {entry: state[entry] for entry in sorted(state)}
    again = interop.load_torch(shapes_of(net), alphabetical)
    jax.tree.map(np.testing.assert_array_equal, again, variables)
    images = jnp.asarray(fingerprints.images(2, 32))
    logits = net.apply(variables, images, train=False).logits
  # Attention takes its softmax in float32.
  np.testing.assert_allclose(logits, CASES[name]["logits"], rtol=3e-6)
  assert torch_layers.num_classes(alphabetical) == 5
  written = interop.to_torch(variables, like=state)
  for entry, value in state.items():
    np.testing.assert_array_equal(written[entry], value, err_msg=entry)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_prefix_changes_no_alphabetical_order(name):
  shapes, state = shapes_of(NETWORKS[name]), state_dict(name)
  prefixed = {f"model.{entry}": state[entry] for entry in sorted(state)}
  jax.tree.map(
    np.testing.assert_array_equal,
    interop.load_torch(shapes, prefixed),
    interop.load_torch(shapes, state),
  )


@pytest.mark.parametrize(
  ("name", "net", "more", "message"),
  [
    (
      "timm/vit",
      NETWORKS["timm/vit_mean"],
      {},
      r"'params/stem_places' .*\(1, 16, 8\) .*'cls_token' .* \(1, 1, 8\)",
    ),
    (
      "timm/vit_mean",
      NETWORKS["timm/vit"],
      {},
      r"'params/stem_class' .*\(1, 1, 8\) .*'pos_embed' .* \(1, 16, 8\)",
    ),
    (
      "timm/vit",
      NETWORKS["timm/vit"],
      {"dist_token": np.zeros((1, 1, 8))},
      "'params/stem_places' .*'dist_token'",
    ),
    (
      "timm/vit",
      NETWORKS["timm/vit"],
      {"blocks.0.ls1.gamma": np.zeros(8)},
      "'blocks.0.ls1.gamma' of the state dict, a parameter, is left over",
    ),
    (
      "torchvision/convnext",
      NETWORKS["timm/resnet"],
      {},
      "stem/kernel.* but 'features.0.0.weight'",
    ),
  ],
  ids=["token", "no_token", "distilled", "scaled", "other_family"],
)
def test_other_networks_are_refused_by_name(name, net, more, message):
  with pytest.raises(WeightsError, match=message):
    interop.load_torch(shapes_of(net), state_dict(name) | more)


def test_positions_of_another_image_size_are_refused():
  with pytest.raises(WeightsError, match=r"stem_places.*\(1, 65, 8\).*size of"):
    interop.load_torch(
      shapes_of(NETWORKS["timm/vit"], 64), state_dict("timm/vit")
    )
