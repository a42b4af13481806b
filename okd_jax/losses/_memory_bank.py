"""The update of memory banks, as in MCL-OKD."""

import jax
import jax.numpy as jnp

from okd_jax.losses._inputs import Array, as_floats, check_numbers, Scalar
from okd_jax.losses._maps import normalize


def memory_update(
  bank_rows: Array, embeddings: Array, *, momentum: Scalar = 0.5
) -> Array:
  r"""Rows of a memory bank after a step, of Euclidean norm 1.

  Computes :math:`v / \|v\|_2` of :math:`v = \mu v_{old} + (1 - \mu) e`. Call it
  after the scores of the step are computed.

  Args:
    bank_rows: rows of the examples of the batch, float [..., d].
    embeddings: their embeddings of this step, float [..., d].
    momentum: scalar in [0, 1], the share of the old row.

  Returns:
    [..., d], float32 or float64, without gradient; zero where old and new rows
    cancel.

  Raises:
    ValueError: if the shapes differ, a dtype is not floating, or for a momentum
      outside [0, 1].

  References:
    Yang et al., `Multi-view Contrastive Learning for Online Knowledge
    Distillation <https://arxiv.org/abs/2006.04093>`_, ICASSP 2021.

  >>> memory_update(jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 0.0]])).tolist()
  [[1.0, 0.0]]
  """
  check_numbers(
    "memory_update",
    "momentum",
    momentum,
    "a number in [0, 1]",
    lambda x: (x >= 0) & (x <= 1),
  )
  old, new = as_floats(
    "memory_update",
    bank_rows=(bank_rows, "* d"),
    embeddings=(embeddings, "* d"),
  )
  old, new = jax.lax.stop_gradient((old, new))
  momentum = jnp.asarray(momentum, jnp.result_type(old, new))
  return normalize(momentum * old + (1 - momentum) * new)
