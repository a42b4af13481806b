"""How strongly each loss term of a run pulls: the norm of its gradient.

    python -m benchmarks.term_gradients WORKDIR --batches=4

At the newest state of the run, on training batches, each term alone, by all
parameters together. The last column is the cosine of its angle to the gradient
of all the others.
"""

import argparse
from collections.abc import Callable, Sequence
import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from okd_jax import core
from okd_jax.devices import mesh as mesh_lib
from okd_jax.runs import run as run_lib
from okd_jax.settings import build
from okd_jax.training import step as steps


def pulls(
  gradient: Callable[[dict[str, float]], Any], names: Sequence[str]
) -> dict[str, tuple[float, float]]:
  """Norm of the gradient of every term, and its cosine to all the others'.

  Args:
    gradient: of the sum of the terms, each times its weight.
    names: of the terms.
  """
  each = {
    name: gradient({other: float(other == name) for other in names})
    for name in names
  }
  total = functools.reduce(optax.tree.add, each.values())
  found = {}
  for name, grads in each.items():
    others = optax.tree.sub(total, grads)
    norm = optax.tree.norm(grads)
    cosine = optax.tree.vdot(grads, others) / (norm * optax.tree.norm(others))
    found[name] = float(norm), float(cosine)
  return found


def measure(workdir: Path, batches: int) -> dict[str, np.ndarray]:
  """Mean norm and cosine of every term, [2], over training batches."""
  on = mesh_lib.make_mesh(1, 1)
  run = run_lib.run(workdir, on)
  config = dataclasses.replace(run.config, eval_batch_size=1)
  source = build.source(config, on)
  names: list[str] = []

  # One program for all terms.
  @jax.jit
  @jax.grad
  def gradient(params, state, batch, weights):
    key = jax.random.key(0)
    _, aux = steps.loss_fn(run.setup, params, state, batch, key)
    names[:] = aux.result.terms
    terms = {
      name: core.objective({name: term})
      for name, term in aux.result.terms.items()
    }
    return sum(weights.get(name, 0.0) * value for name, value in terms.items())

  found = []
  for _, batch in zip(range(batches), source.batches(0), strict=False):
    given = run.state.params, run.state, batch
    if not names:
      jax.eval_shape(gradient, *given, {})
    found.append(pulls(functools.partial(gradient, *given), names))
  return {
    name: np.mean([each[name] for each in found], axis=0) for name in names
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
