"""How strongly each loss term of a run pulls: the norm of its gradient.

    python -m benchmarks.term_gradients WORKDIR --batches=4

At the newest state of the run, on training batches, each term alone, by all
parameters together. The last column is the cosine of its angle to the gradient
of all the others.
"""

import argparse
from collections.abc import Callable
import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from okd_jax import core
from okd_jax.devices import mesh as mesh_lib
from okd_jax.runs import run as run_lib
from okd_jax.settings import build
from okd_jax.training import step as steps


def pulls(
  terms_of: Callable[[Any], dict[str, Any]], params: Any
) -> dict[str, tuple[Any, Any]]:
  """Norm of the gradient of every term, and its cosine to all the others'.

  Args:
    terms_of: scalars by name, of parameters.
    params: where.
  """
  terms, back = jax.vjp(terms_of, params)
  zeros = jax.tree.map(jnp.zeros_like, terms)
  found = {}
  for name, value in terms.items():
    (grads,) = back(zeros | {name: jnp.ones_like(value)})
    (others,) = back({n: jnp.ones_like(v) for n, v in terms.items()})
    others = optax.tree.sub(others, grads)
    norm, other = optax.tree.norm(grads), optax.tree.norm(others)
    cosine = optax.tree.vdot(grads, others) / (norm * other)
    found[name] = norm, cosine
  return found


def measure(workdir: Path, batches: int) -> dict[str, np.ndarray]:
  """Mean norm and cosine of every term, [2], over training batches."""
  on = mesh_lib.make_mesh(1, 1)
  run = run_lib.run(workdir, on)
  config = dataclasses.replace(run.config, eval_batch_size=1)
  source = build.source(config, on)
  key = jax.random.key(0)

  @jax.jit
  def of_batch(params, state, batch):
    def terms_of(params):
      _, aux = steps.loss_fn(run.setup, params, state, batch, key)
      return {
        name: core.objective({name: term})
        for name, term in aux.result.terms.items()
      }

    return pulls(terms_of, params)

  found = [
    of_batch(run.state.params, run.state, batch)
    for _, batch in zip(range(batches), source.batches(0), strict=False)
  ]
  return {
    name: np.mean([each[name] for each in jax.device_get(found)], axis=0)
    for name in found[0]
  }


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m benchmarks.term_gradients")
  parser.add_argument("workdir", type=Path)
  parser.add_argument("--batches", type=int, default=4)
  args = parser.parse_args()
  found = measure(args.workdir, args.batches)
  print(f"{'term':16} {'norm':>10} {'of the sum':>10} {'cosine':>8}")
  total = sum(norm for norm, _ in found.values())
  for name, (norm, cosine) in found.items():
    print(f"{name:16} {norm:10.3g} {100 * norm / total:8.2f} % {cosine:8.3f}")


if __name__ == "__main__":
  main()
