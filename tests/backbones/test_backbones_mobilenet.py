"""MobileNetV2."""

from fractions import Fraction

from flax import linen as nn
import jax
import jax.numpy as jnp
import layouts
import numpy as np
import pytest

from okd_jax import backbones
from okd_jax.backbones import mobilenet

CRD = mobilenet.MobileNetV2(
  5,
  split=1,
  factor=Fraction(1, 4),
  groups=(((16, 1, 1), (24, 2, 1)), ((32, 1, 2),)),
  multiple=1,
  expand_first=True,
  activation=nn.relu,
)
TORCHVISION = mobilenet.MobileNetV2(
  5,
  split=1,
  factor=Fraction(1, 2),
  groups=(((16, 1, 1),), ((32, 2, 2),)),
)


@pytest.mark.parametrize(
  ("name", "classes", "published"),
  [
    ("mobilenet_v2_05", 100, 812_836),
    ("mobilenet_v2_10", 1000, 3_504_872),
    ("mobilenet_v2_14", 1000, 6_108_776),
  ],
)
def test_counts(name, classes, published):
  assert layouts.count(backbones.make(name, classes)) == published


def test_multiply_adds_of_imagenet_table():
  net = backbones.make("mobilenet_v2_10", 1000)
  assert round(backbones.count_multiply_adds(net, (224, 224, 3)) / 1e6) == 301


@pytest.mark.long
def test_numbers_are_those_of_crd():
  layouts.check_logits_against_torch("mobilenet_crd", CRD)


@pytest.mark.long
def test_numbers_are_those_of_torchvision():
  layouts.check_logits_against_torch("mobilenet_torchvision", TORCHVISION)


@pytest.mark.parametrize("net", [CRD, TORCHVISION], ids=["crd", "torchvision"])
def test_parts_make_the_whole(net):
  layouts.assert_parts_make_the_whole(net, (16, 16, 3))


def test_shapes():
  outputs = layouts.outputs_of(
    backbones.make("mobilenet_v2_05", 7), (32, 32, 3)
  )
  assert [m.shape[1:] for m in outputs.maps] == [
    (16, 16, 12),
    (8, 8, 16),
    (4, 4, 48),
    (2, 2, 1280),
  ]
  assert outputs.features.shape == (2, 1280)


@pytest.mark.parametrize(
  ("factor", "width", "expected"),
  # 1.4 * 24 = 33.6 and 1.4 * 16 = 22.4; 0.35 * 32 = 11.2, and 8 is too few.
  [("1.4", 24, 32), ("1.4", 16, 24), ("0.35", 32, 16), ("0.1", 16, 8)],
)
def test_widths_are_rounded_as_in_the_paper(factor, width, expected):
  net = mobilenet.MobileNetV2(
    5, factor=Fraction(factor), groups=(((width, 1, 1),),), split=1
  )
  (only,) = layouts.outputs_of(net.clone(part="trunk"), (8, 8, 1)).shape[3:]
  assert only == expected


def test_init():
  tail = TORCHVISION.clone(split=2, part="tail")
  x = jnp.zeros((1, 1, 1, 16))
  params = jax.jit(lambda: tail.init(jax.random.key(3), x, train=False))()
  params = params["params"]
  kernel = params["head_conv"]["kernel"]
  np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / 1280), rtol=0.05)
  linear = params["head_linear"]
  np.testing.assert_allclose(np.std(linear["kernel"]), 0.01, rtol=0.05)
  np.testing.assert_array_equal(linear["bias"], 0)
