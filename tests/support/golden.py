"""Published test vectors, and comparison of a loss with one of them."""

import functools
import json
import pathlib

import jax
import numpy as np

from okd_jax import core

FOLDER = pathlib.Path(__file__).parents[1] / "vectors"

# For programs that run once: compiling is all the time they take.
jit_once = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


@functools.cache
def _load(name):
  return json.loads((FOLDER / f"{name}.json").read_text())["cases"]


def cases(name, kind):
  """Cases of one kind from vectors/<name>.json, as pytest parameters."""
  return {
    "argvalues": [case for case in _load(name) if case["kind"] == kind],
    "argnames": "case",
    "ids": lambda case: case["name"],
  }


def case(name, label):
  """The case of that name in vectors/<name>.json."""
  return next(case for case in _load(name) if case["name"] == label)


def array(values, *, peers_first=False):
  """An array; with peers_first, axes 0 and 1 of batch-first data change."""
  values = np.asarray(values)
  return np.swapaxes(values, 0, 1) if peers_first else values


def arrays(values, names, *, peers_first=()):
  """A dictionary of arrays, some of them from batch-first data."""
  return {
    name: array(values[name], peers_first=name in peers_first) for name in names
  }


def terms_and_grads(objectives, inputs):
  """For every named objective: its terms, loss and gradients by inputs.

  One compilation for all of them.
  """

  def loss(objective, inputs):
    terms = objective(inputs)
    return core.objective(terms), terms

  @jit_once
  def everything(inputs):
    return {
      name: jax.value_and_grad(
        functools.partial(loss, objective), has_aux=True
      )(inputs)
      for name, objective in objectives.items()
    }

  return {
    name: (terms, total, grads)
    for name, ((total, terms), grads) in everything(inputs).items()
  }


def sum_of_means(term):
  return np.sum(np.mean(term, axis=-1))


def assert_value(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


def assert_grad(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)
