"""HCGNet."""

import layouts
import pytest

from okd_jax import backbones
from okd_jax.backbones import hcgnet

SMALL = hcgnet.HCGNet(5, blocks=(1, 1), growths=(4, 4), split=1)


def test_published_size():
  net = backbones.make("hcgnet_a1", 100)
  assert round(layouts.count(net) / 1e6, 2) == 1.10
  outputs = layouts.outputs_of(net, (32, 32, 3))
  assert outputs.features.shape == (2, 414)
  # A transition halves 24 + 8 * 12 and then 60 + 8 * 24 channels.
  assert [m.shape[3] for m in outputs.maps] == [60, 126, 414]


@pytest.mark.slow
def test_published_multiply_adds():
  net = backbones.make("hcgnet_a1", 100)
  adds = backbones.count_multiply_adds(net, (32, 32, 3))
  assert round(adds / 1e9, 2) == 0.15


@pytest.mark.long
def test_numbers_are_those_of_pytorch():
  layouts.check_logits_against_torch("hcgnet", SMALL)
  layouts.assert_parts_make_the_whole(SMALL, (8, 8, 3))
