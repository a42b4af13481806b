"""The objective of MCL-OKD."""

import math

import jax
import jax.numpy as jnp

from okd_jax.losses._divergences import kl, nll
from okd_jax.losses._inputs import (
  Array,
  as_floats,
  check_numbers,
  check_peers,
  check_temperature,
  check_weights,
  describe,
  is_positive,
  refuse,
  Scalar,
  weighted,
)
from okd_jax.losses._labels import as_labels
from okd_jax.losses._peers import HIGHEST, sum_over_others

# The published code adds it to every denominator of the noise contrast.
EPS = 1e-7


def mcl_okd(
  logits: Array,
  embeddings: Array,
  positives: Array,
  negatives: Array,
  labels: Array,
  *,
  num_examples: Scalar,
  nce_temperature: Scalar = 0.1,
  temperature: Scalar = 3.0,
  ce_weight: Scalar = 1.0,
  kd_weight: Scalar = 1.0,
  nce_weight: Scalar = 0.025,
  normalizer: Scalar | None = None,
) -> dict[str, Array]:
  r"""Loss terms of MCL-OKD: noise contrast between peers, and one leader.

  For every ordered pair (a, b) of peers, the embedding of b is contrasted with
  its own row and with :math:`K` noise rows of the bank of a. With
  :math:`s_{ik}` the dot product of row k of a (0 is the positive) and the
  embedding of b, divided by the temperature of the contrast, :math:`P_{ik} =
  e^{s_{ik}} / Z_{ab}` and :math:`c = K / N`, the cost of example i is

  .. math:: -\log \frac{P_{i0}}{P_{i0} + c + \epsilon}
    - \sum_{k=1}^{K} \log \frac{c}{P_{ik} + c + \epsilon},

  with :math:`\epsilon = 10^{-7}`. The last peer learns from the mean of all
  logits, :math:`\tau^2 \mathrm{KL}(\bar z \| z_P)`. The loss is the sum over
  terms and peers of the mean over examples.

  Args:
    logits: float [P, B, C]; the last peer is the one to deploy.
    embeddings: projected features of Euclidean norm 1, float [P, B, d].
    positives: the examples' own rows in the bank of every peer, from before
      this step, float [P, B, d]; never given a gradient.
    negatives: K rows of examples of other classes in the bank of every peer,
      float [P, B, K, d]; never given a gradient.
    labels: class indices, integer [B], or probabilities, float [B, C].
    num_examples: N, the number of rows of a bank.
    nce_temperature: temperature of the contrast, a positive scalar.
    temperature: temperature of the distillation, a positive scalar.
    ce_weight: scalar weight of the cross-entropy.
    kd_weight: scalar weight of the distillation.
    nce_weight: scalar weight of the contrast, which is a sum over negatives
      and over ordered pairs.
    normalizer: Z, a positive scalar, or an array [P, P] with the peer of the
      bank first; None computes it for every pair in every call, as N times the
      mean of :math:`e^s` over all rows and examples, as in the published code.
      Its gradient is zero in both cases.

  Returns:
    Weighted terms: "peer_ce" [P, B], "leader_kd" [B], and "peer_nce" [P, B],
    the sum over the pairs in which this peer's embedding is the live one.

  Raises:
    ValueError: if the shapes do not match or a dtype is wrong, and for fewer
      than two peers, no negatives, or an invalid temperature, number of
      examples or normalizer.

  References:
    Yang et al., `Multi-view Contrastive Learning for Online Knowledge
    Distillation <https://arxiv.org/abs/2006.04093>`_, ICASSP 2021; constants
    as in the published code.

  >>> logits, rows = jnp.zeros((3, 2, 5)), jnp.ones((3, 2, 4)) / 2
  >>> noise, labels = jnp.zeros((3, 2, 7, 4)), jnp.array([0, 1])
  >>> objective = jax.jit(mcl_okd, static_argnames="num_examples")
  >>> terms = objective(logits, rows, rows, noise, labels, num_examples=50)
  >>> {name: term.shape for name, term in sorted(terms.items())}
  {'leader_kd': (2,), 'peer_ce': (3, 2), 'peer_nce': (3, 2)}
  """
  check_temperature("mcl_okd", nce_temperature, "nce_temperature")
  logits, embeddings, positives, negatives = as_floats(
    "mcl_okd",
    logits=(logits, "P B C"),
    embeddings=(embeddings, "P B d"),
    positives=(positives, "P B d"),
    negatives=(negatives, "P B K d"),
  )
  if not negatives.shape[2]:
    expected = "at least one row an example, float [P, B, K, d]"
    refuse("mcl_okd", "negatives", expected, describe(negatives))
  positive, negative = _scores(
    embeddings, positives, negatives, nce_temperature
  )
  return _terms(
    "mcl_okd",
    logits,
    positive,
    negative,
    labels,
    num_examples=num_examples,
    temperature=temperature,
    ce_weight=ce_weight,
    kd_weight=kd_weight,
    nce_weight=nce_weight,
    normalizer=normalizer,
  )


def mcl_okd_of_scores(
  logits: Array,
  positive: Array,
  negative: Array,
  labels: Array,
  *,
  num_examples: Scalar,
  temperature: Scalar = 3.0,
  ce_weight: Scalar = 1.0,
  kd_weight: Scalar = 1.0,
  nce_weight: Scalar = 0.025,
  normalizer: Scalar | None = None,
) -> dict[str, Array]:
  """The terms of `mcl_okd` from scores, for rows that do not fit in memory.

  Scores are dot products of embeddings and rows, divided by the temperature of
  the contrast. Axes of pairs have the peer of the embedding first.

  Args:
    logits: as in `mcl_okd`.
    positive: scores of the examples' own rows, float [P, P, B].
    negative: scores of K rows of other classes, float [P, P, B, K].
    labels: as in `mcl_okd`.
    num_examples: likewise.
    temperature: likewise.
    ce_weight: likewise.
    kd_weight: likewise.
    nce_weight: likewise.
    normalizer: likewise, with the peer of the bank first.

  Returns:
    As `mcl_okd`.

  Raises:
    ValueError: if the shapes do not match or a dtype is wrong, and for fewer
      than two peers, no negatives, or an invalid temperature, number of
      examples or normalizer.

  >>> logits, scores = jnp.zeros((3, 2, 5)), jnp.zeros((3, 3, 2, 7))
  >>> terms = mcl_okd_of_scores(
  ...   logits, scores[..., 0], scores, jnp.array([0, 1]), num_examples=50
  ... )
  >>> {name: term.shape for name, term in sorted(terms.items())}
  {'leader_kd': (2,), 'peer_ce': (3, 2), 'peer_nce': (3, 2)}
  """
  return _terms(
    "mcl_okd_of_scores",
    logits,
    positive,
    negative,
    labels,
    num_examples=num_examples,
    temperature=temperature,
    ce_weight=ce_weight,
    kd_weight=kd_weight,
    nce_weight=nce_weight,
    normalizer=normalizer,
  )


def _terms(
  function,
  logits,
  positive,
  negative,
  labels,
  *,
  num_examples,
  temperature,
  ce_weight,
  kd_weight,
  nce_weight,
  normalizer,
):
  """The terms; errors name the public function."""
  check_temperature(function, temperature)
  check_weights(
    function, ce_weight=ce_weight, kd_weight=kd_weight, nce_weight=nce_weight
  )
  logits, positive, negative = as_floats(
    function,
    logits=(logits, "P B C"),
    positive=(positive, "P P B"),
    negative=(negative, "P P B K"),
  )
  check_peers(function, "logits", logits, at_least=2)
  labels = as_labels(function, labels, logits)
  if not negative.shape[3]:
    expected = "at least one score an example, float [P, P, B, K]"
    refuse(function, "negative", expected, describe(negative))
  _check_scale(function, len(logits), num_examples, normalizer)
  teacher = jax.lax.stop_gradient(jnp.mean(logits, axis=0))
  pairs = _noise_contrast(positive, negative, num_examples, normalizer)
  return {
    "peer_ce": weighted(ce_weight, nll(logits, labels)),
    "leader_kd": weighted(kd_weight, kl(logits[-1], teacher, temperature)),
    "peer_nce": weighted(nce_weight, sum_over_others(pairs)),
  }


def _check_scale(function, num_peers, num_examples, normalizer) -> None:
  expected = "positive and finite, a number"
  check_numbers(function, "num_examples", num_examples, expected, is_positive)
  if normalizer is not None:
    pairs = (num_peers, num_peers)
    check_numbers(
      function,
      "normalizer",
      normalizer,
      f"{expected} or {list(pairs)}",
      is_positive,
      lambda shape: shape in ((), pairs),
    )


def _scores(embeddings, positives, negatives, temperature):
  """[P, P, B] and [P, P, B, K], the peer of the embedding first."""
  dtype = jnp.result_type(embeddings, positives, negatives)
  embeddings = embeddings / jnp.asarray(temperature, dtype)
  positive, negative = jax.lax.stop_gradient((positives, negatives))
  positive = jnp.einsum("abd,ebd->eab", positive, embeddings, precision=HIGHEST)
  # The small factor is repeated for every bank, the large one, the rows of a
  # bank, neither repeated for every embedding nor copied in another order.
  repeated = jnp.broadcast_to(embeddings, (len(negatives), *embeddings.shape))
  negative = jnp.einsum(
    "abkd,aebd->eabk", negative, repeated, precision=HIGHEST
  )
  return positive, negative


def _noise_contrast(positive, negative, num_examples, normalizer):
  """[P, P, B]: peer of the embedding first, peer of the bank second."""
  num_negatives, dtype = negative.shape[3], negative.dtype
  log_num = jnp.log(jnp.asarray(num_examples, dtype))
  if normalizer is None:
    log_normalizer = log_num + _log_mean(positive, negative)
  else:
    log_normalizer = jnp.log(jnp.asarray(normalizer, dtype))
    log_normalizer = jnp.broadcast_to(log_normalizer, positive.shape[:2]).T
  log_normalizer = jax.lax.stop_gradient(log_normalizer)[..., None]
  log_noise = math.log(num_negatives) - log_num
  # softplus(x) = log(1 + e^x) keeps the digits of a ratio close to one, of
  # which there are K to add.
  hit = jax.nn.softplus(
    jnp.logaddexp(log_noise, math.log(EPS)) - (positive - log_normalizer)
  )
  raised = jnp.logaddexp(negative - log_normalizer[..., None], math.log(EPS))
  return hit + jnp.sum(jax.nn.softplus(raised - log_noise), axis=-1)


def _log_mean(positive: Array, negative: Array) -> Array:
  """log of the mean of exp over examples and rows, [P, P]."""
  total = jnp.logaddexp(
    jax.nn.logsumexp(positive, axis=-1),
    jax.nn.logsumexp(negative, axis=(-2, -1)),
  )
  num_examples, num_negatives = negative.shape[-2:]
  # Only the running program may know the size of a batch.
  count = jnp.maximum(1, jnp.asarray(num_examples, total.dtype))
  return total - jnp.log(count) - math.log(num_negatives + 1)
