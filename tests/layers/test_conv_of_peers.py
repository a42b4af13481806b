"""Convolutions of several peers at once, as graphics cards get them."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax import layers
from okd_jax.groups.map_peers import map_peers
from okd_jax.layers import _together

PEERS = 3


def kernels(net, shape, dtype=jnp.float64):
  keys = jax.random.split(jax.random.key(1), PEERS)
  init = jax.vmap(lambda key: net.init(key, jnp.zeros(shape, dtype)))
  return jax.tree.map(lambda leaf: leaf.astype(dtype), init(keys))


@pytest.mark.parametrize("together", [256, 1], ids=["joined", "one by one"])
@pytest.mark.parametrize(
  ("size", "stride", "options"),
  [
    (3, 1, {}),
    pytest.param(3, 2, {}, marks=pytest.mark.long),
    pytest.param(1, 2, {}, marks=pytest.mark.long),
    (3, 1, {"groups": 2}),
  ],
  ids=["plain", "stride", "points", "groups"],
)
def test_values_and_gradients_are_those_of_each_peer(
  together, size, stride, options, monkeypatch
):
  monkeypatch.setattr(_together, "_CARDS", ("cpu",))
  monkeypatch.setattr(_together, "_TOGETHER", together)
  # A trace of these shapes with another limit must not be found again.
  jax.clear_caches()
  linen = nn.Conv(
    6,
    (size, size),
    stride,
    padding=size // 2,
    feature_group_count=options.get("groups", 1),
    use_bias=False,
    name="conv",
  )
  ours = layers.conv(6, size, stride, name="conv", **options)
  with jax.enable_x64(True):
    x = jax.random.normal(jax.random.key(0), (PEERS, 5, 6, 7, 4), jnp.float64)
    variables = kernels(linen, x.shape[1:])

    def gradients(apply, axis):
      def loss(variables, x):
        y = apply(variables, x)
        return jnp.sum(jnp.sin(y)), y

      given = x if axis == 0 else x[0]
      return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(variables, given)

    # Peers with views of their own, and all with the same images.
    for axis in (0, None):
      expected = gradients(jax.vmap(linen.apply, (0, axis)), axis)
      for net in (ours, linen):
        jax.tree.map(
          functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12),
          gradients(map_peers(net.apply, "vmap", (0, axis)), axis),
          expected,
        )
  jax.clear_caches()


def program(net, platform):
  shape = (8, 6, 6, 4)
  x = jax.ShapeDtypeStruct((PEERS, *shape), jnp.float32)
  variables = kernels(net, shape, jnp.float32)
  apply = map_peers(net.apply, "vmap", (0, 0))

  def loss(variables, x):
    return jnp.sum(apply(variables, x) ** 2)

  traced = jax.jit(jax.grad(loss, (0, 1))).trace(variables, x)
  return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("platform", ["cuda", "rocm"])
@pytest.mark.parametrize(
  "net",
  [layers.conv(20, 3, name="conv"), nn.Conv(20, (3, 3), name="conv")],
  ids=["ours", "linen"],
)
def test_cards_get_one_convolution_for_all_peers(net, platform):
  text = program(net, platform)
  # Forward and two gradients.
  assert text.count("stablehlo.convolution") == 3
  assert f"_group_count = {PEERS}" not in text


def test_cards_get_many_channels_one_peer_after_another():
  text = program(layers.conv(_together._TOGETHER, 3, name="conv"), "cuda")
  assert text.count("stablehlo.convolution") == 3 * PEERS
  assert f"_group_count = {PEERS}" not in text


def test_other_devices_get_groups():
  text = program(layers.conv(20, 3, name="conv"), "tpu")
  assert text.count("stablehlo.convolution") == 3
  assert f"_group_count = {PEERS}" in text
