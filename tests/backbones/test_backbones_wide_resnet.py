"""Wide residual networks."""

import layouts
import numpy as np
import pytest

from okd_jax import backbones
from okd_jax.backbones import wide_resnet

SMALL = wide_resnet.WideResNet(5, blocks=1, widen=2, split=1)


@pytest.mark.parametrize(
  ("name", "ten", "hundred"),
  [
    ("wrn16_1", 175_066, 180_916),
    ("wrn16_2", 691_674, 703_284),
    ("wrn40_1", 563_930, 569_780),
    ("wrn40_2", 2_243_546, 2_255_156),
  ],
)
def test_counts(name, ten, hundred):
  for classes, published in ((10, ten), (100, hundred)):
    assert layouts.count(backbones.make(name, classes)) == published


@pytest.mark.parametrize(
  ("name", "millions"), [("wrn16_8", 11.0), ("wrn16_10", 17.1)]
)
def test_rounded_counts(name, millions):
  count = layouts.count(backbones.make(name, 10))
  assert round(count / 1e6, 1) == millions


def test_wrn28_4_has_features_of_256_channels():
  outputs = layouts.outputs_of(backbones.make("wrn28_4", 100), (8, 8, 3))
  assert outputs.features.shape == (2, 256)
  assert [m.shape[1:] for m in outputs.maps] == [
    (8, 8, 64),
    (4, 4, 128),
    (2, 2, 256),
  ]


@pytest.mark.long
def test_numbers_are_those_of_pytorch():
  layouts.check_logits_against_torch("wide_resnet", SMALL)


def test_parts_make_the_whole():
  layouts.assert_parts_make_the_whole(SMALL, (8, 8, 3))


def test_networks_of_all_depths_share_the_first_convolution():
  images = (8, 8, 3)
  trunks = {
    name: backbones.make(name, 10, split=0, part="trunk")
    for name in ("wrn16_1", "wrn16_2", "wrn40_1")
  }
  for trunk in trunks.values():
    assert layouts.outputs_of(trunk, images).shape == (2, 8, 8, 16)
    assert layouts.shapes_of(trunk, images)["params"].keys() == {"stem"}
  # CTKD's module: WRN-16-1 and WRN-40-1 on one first convolution.
  for classes, published in ((10, 738_564), (100, 750_264)):
    tails = [
      layouts.count(
        backbones.make(name, classes, split=0, part="tail"), (8, 8, 16)
      )
      for name in ("wrn16_1", "wrn40_1")
    ]
    assert 16 * 27 + sum(tails) == published


def test_raw_maps_are_those_before_the_head():
  plain = layouts.run("wide_resnet", SMALL)
  raw = layouts.run("wide_resnet", SMALL.clone(raw_maps=True))
  layouts.assert_close(plain.logits, raw.logits)
  for ours, theirs in zip(raw.maps[:2], plain.maps[:2], strict=True):
    layouts.assert_close(ours, theirs)
  layouts.assert_close(
    np.mean(np.asarray(plain.maps[2]), (1, 2)), plain.features
  )
  pooled, last = (np.asarray(outputs.maps[2]) for outputs in (plain, raw))
  assert np.min(pooled) == 0 > np.min(last)
  # Normalisation keeps the order of a channel's values.
  order = np.argsort(last[..., 0].ravel())
  assert np.all(np.diff(pooled[..., 0].ravel()[order]) >= 0)
