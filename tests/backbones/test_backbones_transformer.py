"""Vision transformers and ConvNeXt against published counts."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from okd_jax import backbones
from okd_jax.backbones import convnext, vit
from okd_jax.errors import ConfigError
from okd_jax.weights import torch as interop

# Parameters of timm's models with 1,000 classes; the first two have neither a
# class token nor a position for it.
PARAMETERS = {
  "vit_tiny_p16": 5_717_416 - 2 * 192,
  "vit_small_p16": 22_050_664 - 2 * 384,
  "deit_tiny": 5_717_416,
  "deit_small": 22_050_664,
  "convnext_tiny": 28_589_128,
}
# Billions of multiply-adds in the papers' tables.
MULTIPLY_ADDS = {
  "vit_tiny_p16": 1.3,
  "vit_small_p16": 4.6,
  "deit_tiny": 1.3,
  "deit_small": 4.6,
  "convnext_tiny": 4.5,
}
SMALL = {
  "vit": (vit.ViT(5, width=8, heads=2, patch=2, depth=4), (8, 8, 3)),
  "deit": (vit.DeiT(5, width=8, heads=2, patch=2, depth=4), (8, 6, 3)),
  "convnext": (
    convnext.ConvNeXt(5, blocks=(1, 1), widths=(4, 8), split=1),
    (8, 8, 3),
  ),
}


def shapes_of(net, image):
  return jax.eval_shape(
    lambda x: net.init(jax.random.key(0), x, train=False),
    jax.ShapeDtypeStruct((1, *image), jnp.float32),
  )


@pytest.mark.parametrize(
  "name", quick.only(("deit_tiny", "convnext_tiny"), PARAMETERS)
)
def test_counts_are_the_published_ones(name):
  net = backbones.make(name, 1000)
  shapes = shapes_of(net, net.image_shape)
  assert backbones.count_parameters(shapes["params"]) == PARAMETERS[name]
  adds = backbones.count_multiply_adds(net, net.image_shape) / 1e9
  assert abs(adds - MULTIPLY_ADDS[name]) < 0.06


@pytest.mark.parametrize("name", ["vit_tiny", "vit_small"])
def test_small_images_have_small_patches(name):
  net = backbones.make(name, 10)
  shapes = shapes_of(net, (32, 32, 3))
  assert shapes["params"]["stem_places"].shape == (1, 8, 8, net.width)
  with pytest.raises(ConfigError, match="cut into patches of 4x4"):
    shapes_of(net, (30, 32, 3))


@pytest.mark.parametrize(
  ("net", "image"),
  [
    pytest.param(
      *case, id=name, marks=[pytest.mark.long] * (name != "convnext")
    )
    for name, case in SMALL.items()
  ],
)
def test_trunk_and_tail_are_the_whole(net, image):
  x = jax.random.normal(jax.random.key(0), (2, *image))
  variables = jax.jit(functools.partial(net.init, train=False))(
    jax.random.key(1), x
  )
  whole = net.apply(variables, x, train=True)
  assert whole.logits.shape == (2, 5) and len(whole.maps) == net.num_stages
  for split in range(net.num_stages + 1):
    hidden = net.clone(split=split, part="trunk").apply(
      variables, x, train=True
    )
    rest = net.clone(split=split, part="tail").apply(
      variables, hidden, train=True
    )
    np.testing.assert_allclose(rest.logits, whole.logits, rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_attention_is_softmax_of_products_over_all_positions():
  net, image = SMALL["vit"]
  block = vit.Block(heads=2)
  x = jax.random.normal(jax.random.key(0), (1, 3, 8))
  params = block.init(jax.random.key(1), x)["params"]

  def norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(
      x.var(-1, keepdims=True) + 1e-6
    )

  x = np.asarray(x[0])
  y = norm(x) @ params["dense1_qkv"]["kernel"]
  q, k, v = np.moveaxis(np.asarray(y).reshape(3, 3, 2, 4), 1, 0)
  scores = np.einsum("nhd,mhd->hnm", q, k) / 2
  weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
  heads = np.einsum("hnm,mhd->nhd", weights, v).reshape(3, 8)
  x = x + heads @ params["dense2_proj"]["kernel"]
  hidden = nn.gelu(
    norm(x) @ params["dense3_hidden"]["kernel"], approximate=False
  )
  expected = x + hidden @ params["dense4_out"]["kernel"]
  found = block.apply(
    {"params": params}, jax.random.normal(jax.random.key(0), (1, 3, 8))
  )
  np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("net", "image"), SMALL.values(), ids=SMALL.keys())
def test_parameters_of_no_layer_are_not_lost_on_the_way_to_pytorch(net, image):
  rng = np.random.default_rng(0)
  shapes = shapes_of(net, image)
  variables = jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes
  )
  state = interop.to_torch(variables)
  assert sum(value.size for value in state.values()) == (
    backbones.count_parameters(shapes["params"])
  )
  loaded = interop.load_torch(shapes, state)
  jax.tree.map(np.testing.assert_array_equal, loaded, variables)


@pytest.mark.parametrize("raw", [False, True])
def test_maps_are_those_of_positions_without_the_class_token(raw):
  net, image = SMALL["deit"]
  outputs = jax.eval_shape(
    lambda x: net.clone(raw_maps=raw).init_with_output(
      jax.random.key(1), x, train=False
    )[0],
    jax.ShapeDtypeStruct((2, *image), jnp.float32),
  )
  assert [m.shape for m in outputs.maps] == [(2, 4, 3, 8)] * 4
