"""What runs try with other networks holds for all of ours."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import pytest
from test_backbones import SMALL

from examples.nnx_network import Small
from examples.own_network import Branched
from okd_jax import backbones
from okd_jax.backbones import (
  convnext,
  hcgnet,
  hourglass,
  mobilenet,
  nnx_network,
  shufflenet,
  vit,
  wide_resnet,
)
from okd_jax.groups import apart
from okd_jax.groups.check import check_state
from okd_jax.groups.views import foreign, momenta

# One small network of each class, with an image it takes.
NETS = {
  **{name: SMALL[name] for name in ("densenet", "imagenet_resnet", "vgg")},
  "convnext": (
    convnext.ConvNeXt(5, blocks=(1, 1), widths=(4, 8), split=1),
    (8, 8, 3),
  ),
  "deit": (vit.DeiT(5, width=8, heads=2, patch=2, depth=2), (4, 4, 3)),
  "hcgnet": (hcgnet.HCGNet(5, blocks=(1,), growths=(4,), split=0), (4, 4, 3)),
  "hourglass": (
    hourglass.Hourglass(3, stacks=1, width=8, depth=1, split=0),
    (16, 16, 3),
  ),
  "mobilenet_v2": (
    mobilenet.MobileNetV2(
      5, factor=Fraction(1, 2), groups=(((16, 2, 1),),), split=0
    ),
    (8, 8, 3),
  ),
  "resnet": (backbones.make("resnet8@1/2", 5), (8, 8, 3)),
  "shufflenet_v1": (
    shufflenet.ShuffleNetV1(
      5, widths=(48, 96), blocks=(2, 2), groups=3, stem_size=1
    ),
    (8, 8, 3),
  ),
  "shufflenet_v2": (
    shufflenet.ShuffleNetV2(5, widths=(8, 16), blocks=(2, 2), stem_size=3),
    (8, 8, 3),
  ),
  "vgg_dropout": (SMALL["vgg"][0].clone(dropout=0.5), SMALL["vgg"][1]),
  "vit": (vit.ViT(5, width=8, heads=2, patch=2, depth=2), (4, 4, 3)),
  "wide_resnet": (wide_resnet.WideResNet(5, blocks=1, widen=2), (8, 8, 3)),
}


@pytest.mark.long
@pytest.mark.parametrize("name", NETS)
def test_examples_are_independent(name):
  net, image = NETS[name]
  entering = jax.ShapeDtypeStruct((1, *image), jnp.float32)
  assert apart.is_ours(net)
  apart.check_mixing(net, entering)
  apart.check_draws(net, entering)
  variables, known = momenta(net, entering)
  assert not foreign(variables, known)
  check_state(net, variables, entering)


def test_others_are_not_taken_for_ours():
  others = nnx_network.make(Small, 5), nnx_network.NnxNetwork(Small, 5)
  assert not any(apart.is_ours(each) for each in (*others, Branched(5)))


def test_every_class_is_tried():
  tried = {type(net) for net, _ in NETS.values()}
  made = {type(backbones.make(name, 5)) for name in backbones.names()}
  # A class with another image size, or with another first block.
  assert made - tried <= {vit.LargeViT, mobilenet.SmallMobileNetV2}
