"""Every public loss under the transformations of JAX, in float64.

A new public loss needs a line in `CASES`.
"""

import functools

import golden
import jax
from jax import shard_map
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np
import pytest
import quick

from okd_jax import losses

P, B, C = 3, 8, 5
RNG = np.random.default_rng(0)
INPUTS = {
  "logits": RNG.normal(size=(P, B, C)),
  "features": RNG.normal(size=(P, B, 4)),
  "maps": RNG.normal(size=(P, B, 3, 3, 2)),
  "labels": RNG.integers(C, size=B),
}
WEIGHTS = np.array([0.5, 0.3, 0.2])


def gate(x):
  return jax.nn.softmax(x["features"][..., 0], axis=0)


def attention(x):
  return losses.peer_attention(x["features"], x["features"][::-1])


def ffsd(x, labels):
  maps = list(x["maps"])
  shallow = [[m[:, :2, :2]] for m in maps[1:]]
  joined = jnp.concatenate(maps[:-1], -1)
  return losses.ffsd(
    x["logits"],
    x["logits"][0],
    labels,
    maps,
    maps[0],
    joined,
    shallow,
    shallow[::-1],
    shallow[::-1],
  )


# By name of the loss, a call with inputs x and labels, indices or one-hot.
WITH_LABELS = {
  "cl_ilr": lambda x, y: losses.cl_ilr(x["logits"], y),
  "cross_entropy": lambda x, y: losses.cross_entropy(x["logits"], y),
  "dml": lambda x, y: losses.dml(x["logits"], y),
  "dml_ensemble": lambda x, y: losses.dml_ensemble(x["logits"], y),
  "ffl": lambda x, y: losses.ffl(x["logits"], x["logits"][0], y, eps=1e-7),
  "ffsd": ffsd,
  "kd": lambda x, y: losses.kd(x["logits"], x["logits"][0], y),
  "kdcl": lambda x, y: losses.kdcl(x["logits"], x["logits"][0], y),
  "kdcl_general_weights": lambda x, y: losses.kdcl_general_weights(
    jax.nn.softmax(x["logits"]), y
  ),
  "kdcl_linear_target": lambda x, y: losses.kdcl_linear_target(x["logits"], y),
  "kdcl_minlogit_target": lambda x, y: losses.kdcl_minlogit_target(
    x["logits"], y
  ),
  "kdcl_naive_target": lambda x, y: losses.kdcl_naive_target(x["logits"], y),
  "okddip": lambda x, y: [
    losses.okddip(
      x["logits"],
      x["logits"][0],
      x["features"],
      x["features"][::-1],
      y,
      aggregate=aggregate,
    )
    for aggregate in ("logits", "probs")
  ],
  "one": lambda x, y: losses.one(x["logits"], gate(x), y),
  "pcl": lambda x, y: losses.pcl(x["logits"], x["logits"][0], x["logits"], y),
}
WITHOUT_LABELS = {
  "attention_distance": lambda x: losses.attention_distance(
    x["maps"], x["maps"][::-1]
  ),
  "diverse_attention": lambda x: losses.diverse_attention(
    x["maps"], x["maps"][::-1]
  ),
  "kdcl_general_target": lambda x: losses.kdcl_general_target(
    x["logits"], WEIGHTS
  ),
  "leave_one_out_mean": lambda x: losses.leave_one_out_mean(x["logits"]),
  "map_distance": lambda x: losses.map_distance(x["maps"], x["maps"][::-1]),
  "mix_peers": lambda x: losses.mix_peers(attention(x), x["logits"]),
  "peer_attention": attention,
  "peer_diversity": lambda x: losses.peer_diversity(x["logits"]),
  "scale_gradient": lambda x: losses.scale_gradient(x["logits"], 0.5),
  "softened_cross_entropy": lambda x: losses.softened_cross_entropy(
    x["logits"], x["logits"][0], temperature=2.0
  ),
  "softened_kl": lambda x: losses.softened_kl(
    x["logits"], x["logits"][0], temperature=2.0, eps=1e-7
  ),
}
CASES = WITHOUT_LABELS | {
  name: lambda x, call=call: call(x, x["labels"])
  for name, call in WITH_LABELS.items()
}
# These sum over examples; on one shard they are those of its own examples.
OVER_EXAMPLES = {"kdcl_general_weights"}
# Of whole batches, or of maps: all in one program of the file beside this one.
ELSEWHERE = {
  *("ctkd", "spatial_attention", "feature_aggregation", "heatmap_kl"),
  *("heatmap_mse", "okdhp", "mcl", "supervised_nce", "mcl_okd"),
  "mcl_okd_of_scores",
  *("memory_update", "oem", "switokd", "switokd_gap", "switokd_group"),
}
# They compile for long; "okddip" stands for them.
DEAR = {"cl_ilr", "dml", "ffl", "ffsd", "kdcl_linear_target", "one", "pcl"}
EVERY_LOSS = pytest.mark.parametrize(
  "name", quick.only(set(CASES) - DEAR, CASES)
)


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def with_gradients(call, x):
  """The result, and the gradient of the sum of everything in it."""
  labels, live = x["labels"], {k: v for k, v in x.items() if k != "labels"}

  def total(live):
    result = call(live | {"labels": labels})
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(result)), result

  grads, result = jax.grad(total, has_aux=True)(live)
  return result, grads


@functools.cache
def plain(name):
  """Of all examples, and of the first half."""
  call = golden.jit_once(functools.partial(with_gradients, CASES[name]))
  return jax.device_get(call(INPUTS))


def assert_close(actual, expected):
  def compare(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)

  jax.tree.map(compare, jax.device_get(actual), expected)


def spec(x):
  return PartitionSpec(*[None] * (x.ndim > 1), "data")


def mesh(axis_type):
  return jax.make_mesh((2,), ("data",), axis_types=(axis_type,))


@EVERY_LOSS
def test_types_are_not_mixed(name):
  """Code that forbids JAX to promote one dtype to another can call it."""
  inputs = jax.tree.map(jnp.asarray, INPUTS)
  with jax.numpy_dtype_promotion("strict"):
    jax.eval_shape(CASES[name], inputs)


@pytest.mark.parametrize("name", CASES)
def test_any_size_of_the_batch(name):
  """Programs that are exported for every size of the batch can call it."""
  (size,) = jax.export.symbolic_shape("b")

  def any_size(x):
    shape = tuple(size if n == B else n for n in x.shape)
    return jax.ShapeDtypeStruct(shape, x.dtype)

  call = functools.partial(with_gradients, CASES[name])
  jax.eval_shape(call, jax.tree.map(any_size, INPUTS))


@EVERY_LOSS
def test_without_jit(name):
  assert_close(CASES[name](INPUTS), plain(name)[0])


@EVERY_LOSS
def test_vmap_in_scan(name):
  call = jax.vmap(functools.partial(with_gradients, CASES[name]))

  @golden.jit_once
  def run(inputs):
    return jax.lax.scan(lambda carry, x: (carry, call(x)), 0, inputs)[1]

  results = run(jax.tree.map(lambda x: np.stack([[x, x]]), INPUTS))
  for index in ((0, 0), (0, 1)):
    assert_close(jax.tree.map(lambda x, i=index: x[i], results), plain(name))


@EVERY_LOSS
@pytest.mark.parametrize(
  "axis_type", quick.only([AxisType.Auto], [AxisType.Auto, AxisType.Explicit])
)
def test_examples_spread_over_devices(name, axis_type):
  devices = mesh(axis_type)
  inputs = jax.tree.map(
    lambda x: jax.device_put(x, NamedSharding(devices, spec(x))), INPUTS
  )
  with jax.set_mesh(devices):
    run = golden.jit_once(functools.partial(with_gradients, CASES[name]))
    assert_close(run(inputs), plain(name))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_common_weights_of_a_batch_spread_over_devices(axis_type):
  call = functools.partial(losses.kdcl_linear_target, scope="batch")
  arrays = INPUTS["logits"], INPUTS["labels"]
  devices = mesh(axis_type)
  spread = [jax.device_put(x, NamedSharding(devices, spec(x))) for x in arrays]
  with jax.set_mesh(devices):
    actual = golden.jit_once(call)(*spread)
  assert_close(actual, call(*arrays))


@EVERY_LOSS
def test_shard_map(name):
  call, specs = CASES[name], jax.tree.map(spec, INPUTS)
  if name in OVER_EXAMPLES:
    halves = [
      jax.tree.map(lambda x, h=h: np.split(x, 2, int(x.ndim > 1))[h], INPUTS)
      for h in range(2)
    ]
    expected = np.concatenate([call(half) for half in halves])
    out = PartitionSpec("data")
  else:
    expected = plain(name)[0]
    # Attention is [P, B, P], maps are [P, B, ...]; [B, C] begins with examples.
    out = jax.tree.map(
      lambda x: PartitionSpec(*[None] * (x.shape[0] != B), "data"), expected
    )
  run = shard_map(
    call, mesh=mesh(AxisType.Auto), in_specs=(specs,), out_specs=out
  )
  assert_close(golden.jit_once(run)(INPUTS), expected)


@pytest.mark.parametrize(
  "name", quick.only(set(WITH_LABELS) - DEAR, WITH_LABELS)
)
def test_one_hot_labels_are_indices(name):
  def call(x):
    return WITH_LABELS[name](x, jnp.asarray(np.eye(C)[INPUTS["labels"]]))

  run = golden.jit_once(functools.partial(with_gradients, call))
  assert_close(run(INPUTS), plain(name))


def test_every_loss_has_an_example():
  assert CASES.keys() | ELSEWHERE == set(losses.__all__)
