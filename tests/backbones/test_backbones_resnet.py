"""Residual networks beside those of OKDDip."""

import layouts
import pytest

from okd_jax import backbones


@pytest.mark.parametrize(
  ("name", "published"),
  [
    ("resnet44", 667_188),
    ("resnet56", 861_620),
    ("resnet8x4", 1_233_540),
    ("resnet32x4", 7_433_860),
  ],
)
def test_counts_of_crd(name, published):
  assert layouts.count(backbones.make(name, 100)) == published


def test_resnet50_of_imagenet():
  net = backbones.make("resnet50", 1000)
  assert layouts.count(net) == 25_557_032
  adds = backbones.count_multiply_adds(net, (224, 224, 3))
  assert round(adds / 1e6) == 4089
  # The first block of the first stage projects without shrinking.
  block = layouts.shapes_of(net, (32, 32, 3))["params"]["stage1_block0"]
  assert block["proj"]["kernel"].shape == (1, 1, 64, 256)


def test_densenetbc100_12():
  net = backbones.make("densenetbc100_12", 100)
  assert layouts.count(net) == 800_032
  maps = layouts.outputs_of(net, (32, 32, 3)).maps
  assert [m.shape[3] for m in maps] == [108, 150, 342]
