"""The objective of OKDDip."""

import math

import chex
import jax
import jax.numpy as jnp

from okd_jax.losses._divergences import (
  cross_entropy,
  divergence,
  softened_kl,
  softened_log_softmax,
)
from okd_jax.losses._inputs import (
  Array,
  as_float,
  check_logits,
  check_temperature,
  Scalar,
  weighted,
)
from okd_jax.losses._peers import (
  log_peer_attention,
  mix_peers,
  peer_attention,
)


def okddip(
  peer_logits: Array,
  leader_logits: Array | None,
  queries: Array,
  keys: Array,
  labels: Array,
  *,
  temperature: Scalar = 3.0,
  kd_weight: Scalar = 1.0,
  eps: float = 1e-7,
  aggregate: str = "logits",
  stop_gradient: bool = False,
) -> dict[str, Array]:
  r"""Loss terms of OKDDip: attentive peers, and a leader that follows them.

  Auxiliary peer a learns from :math:`t_a = \sum_f a_{af} z_f`, with the
  weights of `peer_attention`; the leader from the plain mean of the auxiliary
  peers. The loss is the sum over terms and peers of the mean over examples.

  Args:
    peer_logits: logits of the auxiliary peers, float [K, B, C].
    leader_logits: logits of the leader, float [B, C]; None for a group
      without one, whose terms are then absent.
    queries: projected features of the auxiliary peers, float [K, B, E].
    keys: the same through the other projection, float [K, B, E].
    labels: class indices, integer [B].
    temperature: positive scalar.
    kd_weight: scalar weight of the distillation terms, ramp-up included.
    eps: added to the softened targets, see `softened_kl`; not used if
      `aggregate` is "probs".
    aggregate: "logits" averages logits, as the published code does; "probs"
      averages softened probabilities, as the paper writes.
    stop_gradient: makes the targets constant, the attention included, which
      is then not trained. The published code lets gradients through.

  Returns:
    Weighted terms: "peer_ce" [K, B], "peer_kd" [K, B] and, with a leader,
    "leader_ce" [B], "leader_kd" [B].

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.
    ValueError: for an unknown `aggregate` or an invalid temperature.

  References:
    Chen et al., `Online Knowledge Distillation with Diverse Peers
    <https://arxiv.org/abs/1912.00350>`_, AAAI 2020.

  >>> peers, leader = jnp.zeros((3, 2, 5)), jnp.zeros((2, 5))
  >>> features, labels = jnp.ones((3, 2, 4)), jnp.array([0, 1])
  >>> terms = okddip(peers, leader, features, features, labels)
  >>> {name: term.shape for name, term in sorted(terms.items())}
  {'leader_ce': (2,), 'leader_kd': (2,), 'peer_ce': (3, 2), 'peer_kd': (3, 2)}
  """
  check_temperature(temperature)
  check_logits(peer_logits, labels)
  chex.assert_equal_shape_prefix([peer_logits, queries, keys], 2)
  if leader_logits is not None:
    chex.assert_shape(leader_logits, peer_logits.shape[1:])
  peer_logits = as_float(peer_logits)
  stop = jax.lax.stop_gradient if stop_gradient else lambda target: target

  if aggregate == "logits":
    attention = peer_attention(queries, keys)
    peer_target = stop(mix_peers(attention, peer_logits))
    leader_target = stop(jnp.mean(peer_logits, axis=0))

    def kd(logits, target):
      return softened_kl(logits, target, temperature=temperature, eps=eps)

  elif aggregate == "probs":
    log_attention = log_peer_attention(queries, keys)
    log_probs = softened_log_softmax(peer_logits, temperature)
    peer_target = stop(_log_mix(log_attention, log_probs))
    leader_target = stop(_log_mean(log_probs))

    def kd(logits, target):
      log_probs = softened_log_softmax(as_float(logits), temperature)
      kl = divergence(target, log_probs)
      return jnp.square(jnp.asarray(temperature, kl.dtype)) * kl

  else:
    raise ValueError(
      f"aggregate={aggregate!r} must be 'logits' (the published code) or "
      "'probs' (the paper)."
    )

  terms = {
    "peer_ce": cross_entropy(peer_logits, labels),
    "peer_kd": weighted(kd_weight, kd(peer_logits, peer_target)),
  }
  if leader_logits is not None:
    terms["leader_ce"] = cross_entropy(leader_logits, labels)
    terms["leader_kd"] = weighted(kd_weight, kd(leader_logits, leader_target))
  return terms


def _log_mix(log_weights: Array, log_probs: Array) -> Array:
  """log of `mix_peers`; log-space keeps gradients finite at probability 0."""
  shares = log_weights[..., None] + jnp.moveaxis(log_probs, 0, 1)
  return jax.nn.logsumexp(shares, axis=2)


def _log_mean(log_probs: Array) -> Array:
  """log of the mean over peers, [B, C]."""
  return jax.nn.logsumexp(log_probs, axis=0) - math.log(log_probs.shape[0])
