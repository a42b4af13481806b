"""Layers against PyTorch's conventions, in NumPy."""

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
import numpy as np
import pytest

from okd_jax import layers
from okd_jax.devices.mesh import make_mesh
from okd_jax.groups.map_peers import across_devices
from okd_jax.layers import _batch_norm

P = PartitionSpec


def batch(shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def bn_variables(width):
  rng = np.random.default_rng(1)
  return {
    "params": {"scale": rng.normal(size=width), "bias": rng.normal(size=width)},
    "batch_stats": {
      "mean": rng.normal(size=width),
      "var": rng.uniform(0.5, 2.0, size=width),
    },
  }


def train_bn(variables, x, **fields):
  return layers.BatchNorm(**fields).apply(
    variables, x, use_running_average=False, mutable=["batch_stats"]
  )


def test_batch_norm_in_training():
  variables = bn_variables(3)
  x = batch((4, 2, 2, 3)).astype(np.float64)
  with jax.enable_x64(True):
    y, stats = train_bn(variables, x)
  mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
  scale, bias = (variables["params"][k] for k in ("scale", "bias"))
  old = variables["batch_stats"]
  np.testing.assert_allclose(
    y, (x - mean) / np.sqrt(var + 1e-5) * scale + bias, rtol=1e-12, atol=1e-12
  )
  new = stats["batch_stats"]
  np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * mean)
  # 16 positions: PyTorch keeps the unbiased variance.
  np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * var * 16 / 15)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_gradients_of_batch_norm_are_those_of_its_formula(offset):
  variables = bn_variables(3)
  x = batch((8, 2, 2, 3)).astype(np.float64) + offset

  def formula(params, x):
    mean, var = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
    y = (x - mean) / jnp.sqrt(var + 1e-5) * params["scale"] + params["bias"]
    return y, 0.1 * mean, 0.1 * var * 32 / 31

  def ours(params, x):
    y, stats = train_bn(variables | {"params": params}, x)
    new, old = stats["batch_stats"], variables["batch_stats"]
    return y, *(new[name] - 0.9 * old[name] for name in ("mean", "var"))

  def gradients(function):
    # Of the statistics too, though training does not follow them.
    def loss(params, x):
      y, mean, var = function(params, x)
      return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.sin(mean) + jnp.cos(var))

    return jax.grad(loss, (0, 1))(variables["params"], x)

  with jax.enable_x64(True):
    jax.tree.map(
      # A mean of 1e4 costs four digits of sixteen, its square would cost eight.
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9),
      gradients(ours),
      gradients(formula),
    )


def test_gradients_of_batch_norm_are_those_of_the_whole_batch():
  variables = bn_variables(3)
  x = batch((8, 2, 2, 3)).astype(np.float64)
  mesh = Mesh(np.array(jax.devices()[:4]), ("data",))

  def normalised(params, x, **fields):
    return train_bn(variables | {"params": params}, x, **fields)[0]

  spread = jax.shard_map(
    lambda params, x: normalised(params, x, axis_name="data"),
    mesh=mesh,
    in_specs=(P(), P("data")),
    out_specs=P("data"),
  )

  def gradients(function):
    def loss(params, x):
      return jnp.sum(jnp.sin(function(params, x)))

    return jax.jit(jax.grad(loss, (0, 1)))(variables["params"], x)

  with jax.enable_x64(True):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12),
      gradients(spread),
      gradients(normalised),
    )


def test_batch_norm_in_evaluation():
  variables = bn_variables(3)
  x = batch((4, 3))
  y = layers.BatchNorm().apply(variables, x, use_running_average=True)
  old, own = variables["batch_stats"], variables["params"]
  np.testing.assert_allclose(
    y,
    (x - old["mean"]) / np.sqrt(old["var"] + 1e-5) * own["scale"] + own["bias"],
    rtol=1e-4,
    atol=1e-5,
  )


def test_batch_norm_of_one_position_stays_finite():
  y, stats = train_bn(bn_variables(3), batch((1, 3)))
  assert np.all(np.isfinite(y))
  assert np.all(np.isfinite(stats["batch_stats"]["var"]))


def test_batch_norm_sees_the_whole_batch_on_every_device():
  variables = bn_variables(3)
  x = batch((8, 2, 2, 3))
  mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
  sharded = jax.jit(
    jax.shard_map(
      lambda v, x: train_bn(v, x, axis_name="data"),
      mesh=mesh,
      in_specs=(P(), P("data")),
      out_specs=(P("data"), P()),
    )
  )
  expected = train_bn(variables, x)
  for ours, theirs in zip(
    jax.tree.leaves(sharded(variables, x)),
    jax.tree.leaves(expected),
    strict=True,
  ):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_batch_norm_keeps_statistics_wide_under_bfloat16():
  x = jax.ShapeDtypeStruct((4, 3), jnp.bfloat16)
  net = layers.BatchNorm()
  y, variables = jax.eval_shape(
    lambda x: net.init_with_output(
      jax.random.key(0), x, use_running_average=False
    ),
    x,
  )
  assert y.dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {
    np.dtype(np.float32)
  }


def test_batch_norm_keeps_small_variance_beside_large_mean():
  # In float32 the mean of squares less the squared mean would be noise.
  x = (1e4 + batch((64, 1))).astype(np.float32)
  y, _ = train_bn(
    {
      "params": {"scale": np.ones(1), "bias": np.zeros(1)},
      "batch_stats": {"mean": np.zeros(1), "var": np.ones(1)},
    },
    x,
  )
  np.testing.assert_allclose(np.std(y), 1.0, rtol=1e-2)


def test_dropout_masks_follow_the_example_and_keep_the_mean():
  class Drop(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dropout(0.25)(x, deterministic=False)

  def drop(x):
    with across_devices("data"):
      return Drop().apply({}, x, rngs={"dropout": jax.random.key(0)})

  def on(count):
    mesh = Mesh(np.array(jax.devices()[:count]), ("data",))
    return jax.jit(
      jax.shard_map(drop, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    )(np.ones((40, 400), np.float32))

  one = np.asarray(on(1))
  np.testing.assert_array_equal(one, on(4))
  np.testing.assert_allclose(np.unique(one), [0, 4 / 3], rtol=1e-6)
  np.testing.assert_allclose(one.mean(), 1.0, atol=0.02)
  assert len({row.tobytes() for row in one}) == 40


def dropped(x, **fields):
  """The same on one device and on four, as a network inside a group has it."""

  class Drop(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dropout(**fields)(inputs=x, deterministic=False)

  def drop(x):
    with across_devices("data"):
      return Drop().apply({}, x, rngs={"dropout": jax.random.key(0)})

  def on(count):
    mesh = Mesh(np.array(jax.devices()[:count]), ("data",))
    return jax.shard_map(
      drop, mesh=mesh, in_specs=P("data"), out_specs=P("data")
    )

  np.testing.assert_array_equal(on(1)(x), on(4)(x))
  return on(4)


@pytest.mark.parametrize("axes", [(1,), (-2,), (-1,), (0,), (0, -1)])
def test_dropout_shares_masks_along_axes_as_flax_does(axes):
  x = np.ones((8, 5, 7), np.float32)
  y = np.asarray(dropped(x, rate=0.5, broadcast_dims=axes)(x))
  for axis in range(3):
    first = np.take(y, [0], axis)
    shared = axis in [each % 3 for each in axes]
    assert np.array_equal(y, np.broadcast_to(first, y.shape)) == shared


def test_dropout_of_everything_has_gradients():
  x = np.ones((8, 5), np.float32)
  drop = dropped(x, rate=1.0)
  np.testing.assert_array_equal(drop(x), np.zeros_like(x))
  gradient = jax.grad(lambda x: jnp.sum(drop(x)))(x)
  np.testing.assert_array_equal(gradient, np.zeros_like(x))


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (1, 2), (7, 2)])
def test_conv_pads_both_sides_alike(size, stride):
  x = batch((1, 8, 8, 1))
  kernel = batch((size, size, 1, 1), seed=1)
  y = layers.conv(1, size, stride, name="conv").apply(
    {"params": {"kernel": kernel}}, x
  )
  padded = np.pad(x[0, :, :, 0], size // 2)
  expected = np.array(
    [
      [
        np.sum(padded[i : i + size, j : j + size] * kernel[:, :, 0, 0])
        for j in range(0, 8, stride)
      ]
      for i in range(0, 8, stride)
    ]
  )
  np.testing.assert_allclose(y[0, :, :, 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ("init", "fan"), [(layers.he_fan_out, 64), (layers.he_fan_in, 32)]
)
def test_he_normal_is_not_truncated(init, fan):
  kernel = np.asarray(init(jax.random.key(0), (3, 3, 32, 64)))
  std = np.sqrt(2 / (9 * fan))
  np.testing.assert_allclose(kernel.std(), std, rtol=0.02)
  # Of 18,432 draws some lie beyond 3.5 deviations; truncation is at 2.
  assert np.abs(kernel).max() > 3.5 * std


def test_linear_initialisers_are_uniform():
  weight = layers.uniform_fan_in(jax.random.key(0), (100, 50))
  bias = layers.uniform_bias(100)(jax.random.key(1), (5000,))
  for values in (weight, bias):
    assert 0.099 < np.abs(values).max() <= 0.1
    np.testing.assert_allclose(np.std(values), 0.1 / np.sqrt(3), rtol=0.03)


def test_at_least_float32():
  with jax.enable_x64(True):
    for given, expected in (
      (jnp.bfloat16, jnp.float32),
      (jnp.float16, jnp.float32),
      (jnp.float32, jnp.float32),
      (jnp.float64, jnp.float64),
    ):
      assert layers.at_least_float32(jnp.ones(2, given)).dtype == expected


def check_gradients(ours, linen, shape):
  with jax.enable_x64(True):
    x = jax.random.normal(jax.random.key(0), shape, jnp.float64)
    variables = linen.init(jax.random.key(1), x)

    def gradients(net):
      def loss(variables, x):
        y = net.apply(variables, x)
        return jnp.sum(jnp.sin(y)), y

      return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(variables, x)

    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12),
      gradients(ours),
      gradients(linen),
    )


@pytest.mark.parametrize(
  ("shape", "size", "stride"),
  [
    # Widths that divide into pairs of columns, and one that does not.
    ((64, 5, 6, 2), 3, 1),
    ((64, 4, 2, 2), 5, 1),
    ((64, 6, 5, 2), 3, 1),
    ((4, 5, 6, 17), 3, 1),
    # Even kernels return another size than they get.
    ((16, 5, 6, 2), 2, 1),
    ((16, 5, 5, 2), 2, 1),
    ((32, 5, 6, 2), 3, 2),
    ((16, 5, 6, 2), 1, 2),
    ((64, 5, 6, 2), 1, 1),
  ],
)
def test_convolutions_and_their_gradients_are_those_of_linen(
  shape, size, stride
):
  ours = layers.conv(3, size, stride, name="conv")
  linen = nn.Conv(
    3, (size, size), stride, padding=size // 2, use_bias=False, name="conv"
  )
  check_gradients(ours, linen, shape)


@pytest.mark.parametrize(
  "options",
  [
    {"feature_group_count": 4},
    {"feature_group_count": 2},
    {"kernel_dilation": 2},
    {"feature_group_count": 4, "kernel_dilation": 2},
  ],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_of_groups_and_dilated_ones_are_those_of_linen(
  options, stride
):
  dilation = options.get("kernel_dilation", 1)
  groups = options.get("feature_group_count", 1)
  ours = layers.conv(
    4, 3, stride, groups=groups, dilation=dilation, name="conv"
  )
  linen = nn.Conv(
    4,
    (3, 3),
    stride,
    padding=dilation,
    use_bias=False,
    name="conv",
    **options,
  )
  check_gradients(ours, linen, (64, 4, 6, 4))


def test_gradient_of_a_convolution_is_summed_over_devices():
  net = layers.conv(3, 3, name="conv")
  x = jax.random.normal(jax.random.key(0), (64, 4, 4, 2))
  one = net.init(jax.random.key(1), x)
  peers = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), one)
  mesh = make_mesh(2, 2)

  def local(peers, x):
    y = net.apply(jax.tree.map(lambda leaf: leaf[0], peers), x)
    return jax.lax.psum(jnp.sum(jnp.sin(y)), "data")[None]

  spread = jax.shard_map(
    local, mesh=mesh, in_specs=(P("peer"), P("data")), out_specs=P("peer")
  )
  found = jax.jit(jax.grad(lambda v: jnp.sum(spread(v, x))))(peers)
  alone = jax.grad(lambda v: jnp.sum(jnp.sin(net.apply(v, x))))(one)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-4, atol=1e-4),
    found,
    alone,
  )


def test_the_variance_of_accelerators_is_exact_far_from_zero():
  # Means of 1,000 deviations, where squares about zero would be noise.
  x = np.random.default_rng(0).normal(1000, 1, (64, 4, 4, 3)).astype(np.float32)
  exact = x.astype(np.float64)
  mean, expected = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
  about = np.full(3, 999.9, np.float32)
  found = _batch_norm._variance_about(x, mean.astype(np.float32), about)
  np.testing.assert_allclose(found, expected, rtol=1e-4)
  # At first the running mean is zero, and inputs are normalised.
  centred = x - 1000
  near = (mean - 1000).astype(np.float32)
  found = _batch_norm._variance_about(centred, near, np.zeros(3, np.float32))
  np.testing.assert_allclose(found, expected, rtol=1e-4)
