"""Stacked hourglasses."""

import jax
import jax.numpy as jnp
import layouts
import numpy as np
import pytest
import quick

from okd_jax import backbones
from okd_jax.backbones import hourglass
from okd_jax.errors import ConfigError

IMAGE = (64, 64, 3)
# Of the feature aggregation unit, which is the method's.
AGGREGATION = {256: 5_461_360, 32: 85_976, 64: 342_400}
SMALL = hourglass.Hourglass(3, stacks=2, width=16, depth=2, split=1)


@pytest.mark.parametrize(
  ("stacks", "published"), [(1, 3_586_960), (2, 6_730_912)]
)
def test_counts(stacks, published):
  net = backbones.make(f"hourglass{stacks}", 16)
  assert layouts.count(net, IMAGE) == published


@pytest.mark.long
@pytest.mark.parametrize(
  ("width", "depth", "one", "two"),
  [
    (32, 2, 39_296, 70_704),
    (48, 3, 108_856, 200_792),
  ],
)
def test_counts_of_small_networks(width, depth, one, two):
  for name, published in (("hourglass1", one), ("hourglass2", two)):
    net = backbones.make(name, 16, width=width, depth=depth)
    assert layouts.count(net, IMAGE) == published


def group_count(net, image, branches):
  trunk, tail = (net.clone(part=part) for part in ("trunk", "tail"))
  hidden = layouts.outputs_of(trunk, image).shape[1:]
  shared = layouts.count(trunk, image)
  return shared + branches * layouts.count(tail, hidden)


@pytest.mark.parametrize(
  ("name", "options", "deployed", "published"),
  [
    ("hourglass4", {}, 13_018_816, 30_915_696),
    ("hourglass2", {"width": 32, "depth": 3}, 91_824, 258_536),
    ("hourglass2", {"width": 64, "depth": 3}, 351_808, 1_006_176),
  ],
)
def test_counts_of_training_networks(name, options, deployed, published):
  net = backbones.make(name, 16, **options)
  assert group_count(net, IMAGE, branches=1) == deployed
  counted = group_count(net, IMAGE, branches=3)
  assert counted + AGGREGATION[net.width] == published


@pytest.mark.slow
def test_count_of_eight_stacks():
  net = backbones.make("hourglass8", 16)
  assert layouts.count(net, IMAGE) == 25_594_624
  # The published code has two private stacks, whatever their number.
  counted = group_count(net.clone(split=6), IMAGE, branches=3)
  assert counted + AGGREGATION[256] == 43_491_504


@pytest.mark.parametrize("split", quick.only([1], [0, 1]))
def test_numbers_are_those_of_pytorch(split):
  net = SMALL.clone(split=split)
  outputs = layouts.check_against_torch("hourglass", net)
  stem, *heats = outputs.maps
  assert stem.shape == (4, 8, 8, 16)
  layouts.assert_close(np.stack(heats), layouts.CASES["hourglass"]["outputs"])
  np.testing.assert_array_equal(outputs.logits, heats[-1])
  whole = layouts.run("hourglass", net)
  # The group tells how many stacks are shared, as a tail does not know.
  outputs = outputs.replace(num_shared=whole.num_shared)
  jax.tree.map(layouts.assert_close, outputs, whole)


def test_layers_are_named_in_the_order_of_pytorchs_declaration():
  # Units of an hourglass have one shape: a wrong order would load.
  names = [
    name
    for _, name, kind, *_ in layouts.CASES["hourglass"]["layers"]
    if kind == "conv" and name.startswith("ind_b_0_s_0.0")
  ]
  assert [name.split(".")[2:5] for name in names[::3]] == [
    ["hg", "0", "0"],
    ["hg", "0", "1"],
    ["hg", "0", "2"],
    ["hg", "0", "3"],
    ["hg", "1", "0"],
    ["hg", "1", "1"],
    ["hg", "1", "2"],
  ]


def test_parts_make_the_whole():
  layouts.assert_parts_make_the_whole(SMALL, (32, 32, 3))


def test_branches_of_unequal_length_share_a_trunk():
  image = (32, 32, 3)
  nets = [SMALL.clone(stacks=n, split=2) for n in (3, 4, 6)]
  trunks = [net.clone(part="trunk") for net in nets]
  first = layouts.names_of(layouts.shapes_of(trunks[0], image))
  hidden = layouts.outputs_of(trunks[0], image).shape[1:]
  # The next input, the stem's map and two heat maps.
  assert hidden == (8, 8, 16 + 16 + 2 * 3)
  for net, trunk in zip(nets, trunks, strict=True):
    assert layouts.names_of(layouts.shapes_of(trunk, image)) == first
    outputs = layouts.outputs_of(net.clone(part="tail"), hidden)
    assert [m.shape for m in outputs.maps] == [
      (2, 8, 8, 16),
      *[(2, 8, 8, 3)] * net.stacks,
    ]
    assert outputs.logits.shape == (2, 8, 8, 3)
    assert outputs.features.shape == (2, 16)


def test_heat_maps_stay_wide_under_bfloat16():
  net = SMALL.clone(dtype=jnp.bfloat16)
  outputs = layouts.outputs_of(net, (32, 32, 3))
  assert outputs.logits.dtype == jnp.float32
  assert {m.dtype for m in outputs.maps[1:]} == {np.dtype(np.float32)}
  assert outputs.features.dtype == jnp.bfloat16


def test_images_need_not_be_square():
  outputs = layouts.outputs_of(SMALL, (32, 16, 3))
  assert outputs.logits.shape == (2, 8, 4, 3)


@pytest.mark.parametrize(
  ("options", "image", "message"),
  [
    ({"width": 18}, IMAGE, "width=18 must be a multiple of 4"),
    ({}, (40, 32, 3), r"\(40, 32\) cannot be halved 4 times.*multiples of 16"),
    ({"split": 3}, IMAGE, "split=3.*use 0 to 2"),
    ({"split": 2, "part": "tail"}, IMAGE, "none of 2 stacks.*use 0 to 1"),
  ],
)
def test_wrong_input_is_refused(options, image, message):
  with pytest.raises(ConfigError, match=message):
    layouts.outputs_of(SMALL.clone(**options), image)
