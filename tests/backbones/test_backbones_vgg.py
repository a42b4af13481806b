"""VGGs with a linear classifier."""

import layouts
import pytest

from okd_jax import backbones
from okd_jax.backbones import vgg

SMALL = vgg.VGG(
  5, widths=((4, 4), (4,), (8,), (8,), (8,)), hidden=(), pools=3, split=3
)


@pytest.mark.parametrize(
  ("name", "published"), [("vgg8", 3_965_028), ("vgg13", 9_462_180)]
)
def test_counts_of_crd(name, published):
  assert layouts.count(backbones.make(name, 100)) == published


def test_vgg16_of_mcl_okd():
  net = backbones.make("vgg16_linear", 100)
  assert round(layouts.count(net) / 1e6, 2) == 14.77
  adds = backbones.count_multiply_adds(net, (32, 32, 3))
  assert round(adds / 1e9, 2) == 0.31


def test_maps_are_pooled_three_times():
  outputs = layouts.outputs_of(backbones.make("vgg8", 7), (32, 32, 3))
  assert [m.shape[1] for m in outputs.maps] == [16, 8, 4, 4, 4]
  assert outputs.features.shape == (2, 512)


def test_numbers_are_those_of_pytorch():
  layouts.check_logits_against_torch("vgg", SMALL)
  layouts.assert_parts_make_the_whole(SMALL, (16, 16, 3))
