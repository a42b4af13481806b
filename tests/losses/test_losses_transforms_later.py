"""The losses of the later systems under every transformation of JAX."""

import functools

import golden
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np
import pytest

from okd_jax import losses

NUM_PEERS, NUM_EXAMPLES, NUM_CLASSES = 3, 4, 5
LABELS = np.array([1, 0, 1, 0])
# Where the batch axis of every input is.
BATCH_AXIS = {
  "logits": 1,
  "embeddings": 1,
  "positives": 1,
  "negatives": 1,
  "features": 1,
  "heat_maps": 1,
  "weight": 0,
  "labels": 0,
  "soft_labels": 0,
}


def draw(dtype=np.float32):
  rng = np.random.default_rng(0)
  shapes = {
    "logits": (NUM_PEERS, NUM_EXAMPLES, NUM_CLASSES),
    "embeddings": (NUM_PEERS, NUM_EXAMPLES, 6),
    "positives": (NUM_PEERS, NUM_EXAMPLES, 6),
    "negatives": (NUM_PEERS, NUM_EXAMPLES, 7, 6),
    "features": (NUM_PEERS, NUM_EXAMPLES, 4, 4, 2),
    "heat_maps": (NUM_PEERS, NUM_EXAMPLES, 4, 4, 2),
  }
  inputs = {
    name: (rng.normal(size=shape) / 2).astype(dtype)
    for name, shape in shapes.items()
  }
  soft = rng.uniform(size=(NUM_EXAMPLES, NUM_CLASSES))
  return inputs | {
    "weight": np.array([[1, 0], [1, 1], [0, 1], [1, 1]], dtype),
    "labels": LABELS,
    "soft_labels": (soft / soft.sum(1, keepdims=True)).astype(dtype),
  }


def aggregation_params():
  rng = np.random.default_rng(1)
  shapes = {
    "conv_bias": (2, 2),
    "bn_scale": (2, 2),
    "bn_bias": (2, 2),
    "W1": (2, 3),
    "b1": (3,),
    "W2": (NUM_PEERS, 3, 2),
    "b2": (NUM_PEERS, 2),
  }
  params = {
    name: rng.normal(size=shape).astype(np.float32)
    for name, shape in shapes.items()
  }
  kernels = [rng.normal(size=(k, k, 2, 2)).astype(np.float32) for k in (1, 3)]
  return params | {"conv_kernels": kernels}


def call_all(x):
  """{loss: its terms}; all of the same inputs."""
  logits, maps, heat_maps = x["logits"], x["features"], x["heat_maps"]
  ensemble, _ = losses.feature_aggregation(
    maps[0], heat_maps, aggregation_params()
  )
  return {
    "mcl_okd": losses.mcl_okd(
      logits,
      x["embeddings"],
      x["positives"],
      x["negatives"],
      x["soft_labels"],
      num_examples=50,
    ),
    "memory_update": losses.memory_update(x["positives"], x["embeddings"]),
    "oem": losses.oem(logits, x["soft_labels"], [list(maps[1:])], [maps[0]]),
    "ctkd": losses.ctkd(
      logits[0],
      logits[1],
      x["soft_labels"],
      [maps[0]],
      [maps[1]],
      hint_weight=0.03,
      attention_weight=10.0,
    ),
    "mcl": losses.mcl(
      logits,
      x["embeddings"],
      x["labels"],
      logit_kd="all",
      mask_diagonal=True,
    ),
    "switokd": losses.switokd(logits[0], logits[1], x["soft_labels"]),
    "switokd_group": losses.switokd_group(logits, x["soft_labels"]),
    "okdhp": losses.okdhp(list(heat_maps), ensemble, maps[0], x["weight"]),
  }


def call_with_gradients(x):
  """All terms, and the gradient of their sum."""

  def total(live):
    terms = call_all(x | live)
    leaves = [leaf for leaf in jax.tree.leaves(terms) if leaf.dtype != bool]
    return sum(jnp.sum(leaf) for leaf in leaves), terms

  live = {name: x[name] for name in ("logits", "embeddings", "features")}
  live["heat_maps"] = x["heat_maps"]
  (_, terms), grads = jax.value_and_grad(total, has_aux=True)(live)
  return terms, grads


@functools.cache
def expected():
  return jax.device_get(golden.jit_once(call_with_gradients)(draw()))


def assert_close(actual, wanted, rtol=2e-5):
  def compare(a, b):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-5)

  jax.tree.map(compare, jax.device_get(actual), wanted)


def test_types_are_not_mixed():
  """Code that forbids JAX to promote one dtype to another can call them."""
  with jax.numpy_dtype_promotion("strict"):
    jax.eval_shape(call_with_gradients, jax.tree.map(jnp.asarray, draw()))


def test_any_size_of_the_batch():
  """Programs that are exported for every size of the batch can call them."""
  (size,) = jax.export.symbolic_shape("b")

  def any_size(name, x):
    axis = BATCH_AXIS[name]
    shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
    return jax.ShapeDtypeStruct(shape, x.dtype)

  inputs = {name: any_size(name, x) for name, x in draw().items()}
  jax.eval_shape(call_with_gradients, inputs)


def test_only_what_compares_examples_needs_arrays_without_some():
  """A mask does for the others: their terms are the same without the last."""
  x = draw()
  few = {name: np.split(x[name], [2], BATCH_AXIS[name])[0] for name in x}
  whole, alone = (golden.jit_once(call_all)(inputs) for inputs in (x, few))
  differ = set()
  for name, terms in alone.items():
    for a, b in zip(*map(jax.tree.leaves, (terms, whole[name])), strict=True):
      if a.dtype != bool and not np.allclose(
        a, b[..., :2, :] if name == "memory_update" else b[..., :2], rtol=1e-4
      ):
        differ.add(name)
  # The target of `okdhp` is that of `feature_aggregation` here.
  assert differ == {"mcl", "mcl_okd", "okdhp"}

  # A teacher pauses where it is right and its student is wrong.
  teacher, student = np.zeros((2, NUM_EXAMPLES, NUM_CLASSES))
  teacher[:, 0], student[:, 1] = 2.0, 9.0
  labels = np.array([0, 0, 1, 1])
  for end, paused in ((2, True), (4, False)):
    terms = losses.switokd(teacher[:end], student[:end], labels[:end])
    assert terms["expert_mode"] == paused
    assert np.any(terms["teacher_ce"][:2]) != paused


@pytest.mark.long
def test_vmap():
  inputs = jax.tree.map(lambda x: np.stack([x, x[::-1]]), draw())
  # The second half is another batch, so that nothing is the same by chance.
  inputs["labels"][1] = LABELS
  terms, grads = golden.jit_once(jax.vmap(call_with_gradients))(inputs)
  first = jax.tree.map(lambda x: x[0], (terms, grads))
  assert_close(first, expected())
  assert jax.tree.all(jax.tree.map(lambda x: bool(np.isfinite(x).all()), grads))


@pytest.mark.long
def test_scan():
  inputs = jax.tree.map(lambda x: np.stack([x, x]), draw())

  @golden.jit_once
  def run(inputs):
    def step(count, x):
      return count + 1, call_with_gradients(x)

    return jax.lax.scan(step, 0, inputs)[1]

  results = run(inputs)
  for k in range(2):
    assert_close(jax.tree.map(lambda x, k=k: x[k], results), expected())


def specs():
  return {
    name: PartitionSpec(*[None] * axis, "data")
    for name, axis in BATCH_AXIS.items()
  }


def test_shard_map_over_a_replicated_batch():
  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
  run = jax.shard_map(
    call_all, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec()
  )
  assert_close(golden.jit_once(run)(draw()), expected()[0])


def test_shard_map_over_a_split_batch():
  """Terms of one example each need nothing of the others."""
  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
  names = ("logits", "soft_labels", "features", "heat_maps", "weight")

  def call(x):
    logits, maps, heat_maps = x["logits"], x["features"], x["heat_maps"]
    return {
      "oem": losses.oem(logits, x["soft_labels"], [list(maps[1:])], [maps[0]]),
      "ctkd": losses.ctkd(
        logits[0],
        logits[1],
        x["soft_labels"],
        [maps[0]],
        [maps[1]],
        hint_weight=0.03,
        attention_weight=10.0,
      ),
      "okdhp": losses.okdhp(
        list(heat_maps), heat_maps[0], maps[0], x["weight"]
      ),
    }

  inputs = {name: draw()[name] for name in names}
  shapes = jax.eval_shape(call, inputs)
  run = jax.shard_map(
    call,
    mesh=mesh,
    in_specs=({name: specs()[name] for name in names},),
    out_specs=jax.tree.map(
      lambda x: PartitionSpec(*[None] * (x.ndim - 1), "data"), shapes
    ),
  )
  terms = jax.device_get(golden.jit_once(run)(inputs))
  assert_close(terms, jax.device_get(golden.jit_once(call)(inputs)))


@pytest.mark.long
def test_explicit_mesh():
  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
  inputs = {
    name: jax.device_put(x, NamedSharding(mesh, specs()[name]))
    for name, x in draw().items()
  }
  with jax.set_mesh(mesh):
    assert_close(jax.jit(call_with_gradients)(inputs), expected())


def test_half_precision_is_computed_in_float32():
  inputs = draw()
  half = {
    name: jnp.asarray(x, jnp.bfloat16) if x.dtype == np.float32 else x
    for name, x in inputs.items()
  }
  terms = golden.jit_once(call_all)(half)
  for leaf in jax.tree.leaves(terms):
    assert leaf.dtype in (jnp.float32, bool)
  rounded = {
    name: np.asarray(x, np.float32) if name != "labels" else x
    for name, x in half.items()
  }
  assert_close(terms, jax.device_get(golden.jit_once(call_all)(rounded)))
