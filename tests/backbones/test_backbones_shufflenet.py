"""ShuffleNets."""

import layouts
import numpy as np
import pytest

from okd_jax import backbones
from okd_jax.backbones import shufflenet

V1 = shufflenet.ShuffleNetV1(
  5, widths=(36, 48), blocks=(2, 1), groups=3, stem_size=1, split=1
)
V2 = shufflenet.ShuffleNetV2(
  5, widths=(12, 16), blocks=(2, 1), stem_size=3, split=1
)


@pytest.mark.parametrize(
  ("name", "published"),
  [
    ("shufflenet_v1", 949_258),
    # The published ones have a stem of 1x1; MCL's, of 3x3, has 576 more.
    ("shufflenet_v2_10", 1_355_528 + 24 * 3 * 8),
  ],
)
def test_counts(name, published):
  assert layouts.count(backbones.make(name, 100)) == published


def test_half_shufflenet_v2():
  outputs = layouts.outputs_of(
    backbones.make("shufflenet_v2_05", 100), (32, 32, 3)
  )
  assert [m.shape[1:] for m in outputs.maps] == [
    (16, 16, 48),
    (8, 8, 96),
    (4, 4, 1024),
  ]
  assert outputs.features.shape == (2, 1024)


@pytest.mark.long
@pytest.mark.parametrize(
  ("name", "net"),
  [
    ("shufflenet_v1", V1),
    ("shufflenet_v2", V2),
  ],
)
def test_numbers_are_those_of_pytorch(name, net):
  layouts.check_logits_against_torch(name, net)
  layouts.assert_parts_make_the_whole(net, (16, 16, 3))


def test_shuffle_deals_channels_out():
  x = np.arange(6.0).reshape(1, 1, 1, 6)
  np.testing.assert_array_equal(
    shufflenet.shuffle(x, 2).ravel(), [0, 3, 1, 4, 2, 5]
  )
  np.testing.assert_array_equal(
    shufflenet.shuffle(x, 3).ravel(), [0, 2, 4, 1, 3, 5]
  )
