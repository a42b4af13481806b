"""Does the training step compute on this device what it computes on CPU?

    python -m benchmarks.checks [okddip pcl ...]

Three steps of the methods with a small network in float32, with products at
full precision: on the CPU, on the device, on the device with `vmap`, and in
one chunk. Needs nothing but jax, flax and optax.
"""

import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
import numpy as np

from benchmarks import setting
from okd_jax import methods
from okd_jax.data.sources.flat import Flat
from okd_jax.devices import mesh
from okd_jax.training import (
  chunk as chunk_lib,
  measures as measures_lib,
  state as state_lib,
  step as steps,
)
from okd_jax.training.setup import initial_key, Setup

STEPS, BATCH = 3, 32
# Three steps amplify the rounding of float32.
TOLERANCE = 2e-2


def train(setup: Setup, state: Any, chunk: bool) -> np.ndarray:
  """Returns the mean of every loss term over the steps.

  Args:
    setup: its mesh says where.
    state: the initial state on the host.
    chunk: make the steps in one call.
  """
  everywhere = NamedSharding(setup.mesh, P())
  state = mesh.place(state, state_lib.shardings(setup, state))
  batch = jax.device_put(setting.random_batch(BATCH), everywhere)
  key = jax.device_put(jax.random.key(0), everywhere)
  given = (key, *setting.taught_with(setup))
  if chunk:
    rows = jnp.tile(jnp.arange(BATCH), (STEPS, 1))
    rows = jax.device_put(rows, everywhere)
    step_fn = functools.partial(steps.train_step, setup)
    measures = chunk_lib.measures_like(step_fn, state, batch, *given)
    sums, _ = measures_lib.from_json({}, measures)
    images = (Flat.of(batch.image), batch.target, rows, jnp.int32(STEPS))
    many_steps = functools.partial(chunk_lib.many_steps, setup, step_fn)
    _, sums = jax.jit(many_steps)(state, sums, *images, *given)
    terms = measures_lib.means(sums, STEPS)["terms"]
  else:
    fn = jax.jit(functools.partial(steps.train_step, setup))
    each = []
    for _ in range(STEPS):
      state, measured = fn(state, batch, *given)
      each.append(jax.device_get(measured["terms"]))
    terms = jax.tree.map(lambda *values: np.mean(values, 0), *each)
  return np.concatenate([np.ravel(term) for _, term in sorted(terms.items())])


def main() -> int:
  on_device, on_cpu = jax.devices()[:1], jax.devices("cpu")[:1]
  print(f"{on_device[0].device_kind}, jax {jax.__version__}")
  wrong = 0
  for method in sys.argv[1:] or ("okddip", "pcl"):
    made = methods.make(method)
    kind = made.needs.kind or "replicas"
    recipe = functools.partial(
      setting.recipe, method, "resnet8", kind, 4, BATCH
    )
    reference = recipe(mapping="unroll", devices=on_cpu)
    state = jax.device_get(state_lib.init(reference, initial_key(0)))
    expected = train(reference, state, chunk=False)
    for name, mapping, chunk in (
      ("unrolled", "unroll", False),
      ("vmapped", "vmap", False),
      ("in a chunk", "unroll", True),
    ):
      found = train(recipe(mapping=mapping, devices=on_device), state, chunk)
      error = np.max(np.abs(found / expected - 1))
      wrong += not error < TOLERANCE
      verdict = "ok" if error < TOLERANCE else "WRONG"
      print(f"{method:12} {name:10} differs by {error:.1e} from CPU: {verdict}")
  print(f"checks: {wrong} wrong")
  return min(wrong, 1)


if __name__ == "__main__":
  with jax.default_matmul_precision("highest"):
    sys.exit(main())
