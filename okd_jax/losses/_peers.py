"""Functions of a group of peers, stacked on the first axis."""

import itertools

import jax
import jax.numpy as jnp

from okd_jax.losses._inputs import (
  Array,
  as_floats,
  check_peers,
  check_weights,
  describe,
  refuse,
  Scalar,
)

HIGHEST = jax.lax.Precision.HIGHEST


def peer_attention(
  queries: Array, keys: Array, *, attend_to_self: bool = True
) -> Array:
  r"""Attention weights between peers, for every example.

  Computes :math:`a_{ij} = \mathrm{softmax}_j(q_i \cdot k_j)`: dot products are
  not scaled, a peer also attends to itself, and the weights are asymmetric.

  Args:
    queries: projected features, float [P, B, E].
    keys: the same features through the other projection, float [P, B, E].
    attend_to_self: whether a peer attends to itself; False leaves only the
      others.

  Returns:
    [P, B, P]: weight that the first index gives to the last; rows sum to one.

  Raises:
    AssertionError: if shapes differ, or a dtype is not floating.
    ValueError: if a single peer is to attend to others.

  References:
    Chen et al., `Online Knowledge Distillation with Diverse Peers
    <https://arxiv.org/abs/1912.00350>`_, AAAI 2020: the weights alpha_ab.

  >>> peer_attention(jnp.zeros((2, 1, 3)), jnp.ones((2, 1, 3))).tolist()
  [[[0.5, 0.5]], [[0.5, 0.5]]]
  """
  queries, keys = as_floats(
    "peer_attention", queries=(queries, "P B E"), keys=(keys, "P B E")
  )
  if not attend_to_self:
    check_peers("peer_attention", "queries", queries, at_least=2)
  return jnp.exp(log_peer_attention(queries, keys, attend_to_self))


def log_peer_attention(
  queries: Array, keys: Array, attend_to_self: bool
) -> Array:
  """Logarithms of `peer_attention`, for inputs that are already checked."""
  energy = jnp.einsum("pbe,qbe->pbq", queries, keys, precision=HIGHEST)
  if not attend_to_self:
    itself = jnp.eye(energy.shape[0], dtype=bool)[:, None]
    energy = jnp.where(itself, -jnp.inf, energy)
  return jax.nn.log_softmax(energy)


def mix_peers(weights: Array, values: Array) -> Array:
  """Weighted sums over peers, one for each peer and example.

  Args:
    weights: float [P, B, P], as `peer_attention` returns them.
    values: logits or probabilities of the peers, float [P, B, C].

  Returns:
    [P, B, C], float32 or float64; -inf where one of the peers has it, whatever
    its weight, so that masked classes stay masked.

  Raises:
    AssertionError: if the shapes do not match or a dtype is not floating.

  References:
    Chen et al., `Online Knowledge Distillation with Diverse Peers
    <https://arxiv.org/abs/1912.00350>`_, AAAI 2020: first-level targets.

  >>> weights = jnp.array([[[0.0, 1.0]], [[0.5, 0.5]]])
  >>> mix_peers(weights, jnp.array([[[2.0]], [[4.0]]])).tolist()
  [[[4.0]], [[3.0]]]
  """
  values, weights = as_floats(
    "mix_peers", values=(values, "P B C"), weights=(weights, "P B P")
  )
  return weighted_sum("pbq,qbc->pbc", weights, values)


def weighted_sum(equation: str, weights: Array, values: Array) -> Array:
  """An einsum over the peers of values [P, B, C]; any -inf gives -inf.

  Gradients of weights do not see -inf.
  """
  masked = values == -jnp.inf
  total = jnp.einsum(
    equation, weights, jnp.where(masked, 0, values), precision=HIGHEST
  )
  return jnp.where(jnp.any(masked, axis=0), -jnp.inf, total)


def leave_one_out_mean(values: Array) -> Array:
  """For every peer, the mean over all the other peers.

  Args:
    values: float [P, ...], usually logits [P, B, C].

  Returns:
    The same shape, float32 or float64; -inf where one of the others has it.

  Raises:
    ValueError: if there are fewer than two peers.

  References:
    Song & Chai, `Collaborative Learning for Deep Neural Networks
    <https://arxiv.org/abs/1805.11761>`_, NeurIPS 2018: the soft targets.

  >>> leave_one_out_mean(jnp.array([[[1.0]], [[2.0]], [[6.0]]])).tolist()
  [[[4.0]], [[3.5]], [[1.5]]]
  """
  (values,) = as_floats("leave_one_out_mean", values=(values, "..."))
  if not values.ndim:
    refuse("leave_one_out_mean", "values", "float [P, ...]", describe(values))
  check_peers("leave_one_out_mean", "values", values, at_least=2)
  return mean_of_others(values)


def mean_of_others(values: Array) -> Array:
  """`leave_one_out_mean` of inputs that are already checked."""
  num_peers = len(values)
  shares = 1 - jnp.eye(num_peers, dtype=values.dtype)
  known = jnp.where(jnp.isfinite(values), values, 0)
  mean = jnp.einsum(
    "pq,q...->p...", shares / (num_peers - 1), known, precision=HIGHEST
  )
  # Not by products: 0 times a peer's own inf or nan is nan.
  for value, has_it in (
    (jnp.inf, values == jnp.inf),
    (jnp.nan, jnp.isnan(values)),
    (-jnp.inf, values == -jnp.inf),
  ):
    ones = has_it.astype(jnp.int32)
    others_have_it = jnp.sum(ones, axis=0, dtype=jnp.int32) > ones
    mean = jnp.where(others_have_it, value, mean)
  return mean


def sum_over_others(pairs: Array) -> Array:
  """[P, B] from pairs [P, P, B]: the sum over all other second indices."""
  itself = jnp.eye(len(pairs), dtype=bool)[..., None]
  return jnp.sum(jnp.where(itself, 0, pairs), axis=1)


def mean_over_others(pairs: Array) -> Array:
  """The same with the mean."""
  return sum_over_others(pairs) / (len(pairs) - 1)


def scale_gradient(x: Array, scale: Scalar) -> Array:
  """The identity, whose gradient is multiplied by `scale`.

  Args:
    x: any float array.
    scale: scalar; gradients do not flow into it.

  Returns:
    x itself.

  References:
    Song & Chai, `Collaborative Learning for Deep Neural Networks
    <https://arxiv.org/abs/1805.11761>`_, NeurIPS 2018: backpropagation
    rescaling, 1 / P where the branches enter the trunk.

  >>> value, grad = jax.value_and_grad(lambda x: scale_gradient(x, 0.5))(2.0)
  >>> float(value), float(grad)
  (2.0, 0.5)
  """
  check_weights("scale_gradient", scale=scale)
  as_floats("scale_gradient", x=(x, "..."))
  return _scale_gradient(jnp.asarray(x), scale)


@jax.custom_jvp
def _scale_gradient(x: Array, scale: Scalar) -> Array:
  del scale
  return x


@_scale_gradient.defjvp
def _scale_gradient_jvp(primals, tangents):
  x, scale = primals
  return x, tangents[0] * jnp.asarray(scale, jnp.result_type(x))


def peer_diversity(logits: Array) -> Array:
  r"""Mean Euclidean distance between the predictions of two peers.

  The mean over pairs j < k of :math:`\|p_j - p_k + 10^{-6}\|_2`, p at
  temperature 1. The published code divides by 3 whatever the number of pairs;
  here it is the mean for every P.

  Args:
    logits: float [P, B, C].

  Returns:
    [B], float32 or float64, between 0 and about 1.41.

  Raises:
    AssertionError: if the rank is not 3 or the dtype is not floating.
    ValueError: if there are fewer than two peers.

  References:
    Chen et al., `Online Knowledge Distillation with Diverse Peers
    <https://arxiv.org/abs/1912.00350>`_, AAAI 2020, figure 2; the constant as
    in the published code.

  >>> logits = jnp.array([[[100.0, 0.0]], [[0.0, 100.0]]])
  >>> peer_diversity(logits).round(2)
  Array([1.41], dtype=float32)
  """
  (logits,) = as_floats("peer_diversity", logits=(logits, "P B C"))
  check_peers("peer_diversity", "logits", logits, at_least=2)
  probs = jax.nn.softmax(logits)
  pairs = itertools.combinations(range(logits.shape[0]), 2)
  distances = [
    jnp.linalg.norm(probs[j] - probs[k] + 1e-6, axis=-1) for j, k in pairs
  ]
  return jnp.mean(jnp.stack(distances), axis=0)
