"""The objective of OKDDip."""

from collections.abc import Callable
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from okd_jax.losses._divergences import (
  divergence,
  kl,
  nll,
  softened_log_softmax,
)
from okd_jax.losses._inputs import (
  Array,
  as_floats,
  check_not_negative,
  check_peers,
  check_temperature,
  check_weights,
  refuse,
  Scalar,
  weighted,
)
from okd_jax.losses._labels import as_labels
from okd_jax.losses._peers import log_peer_attention, weighted_sum


class Targets(NamedTuple):
  """Targets of both levels, and the distance of logits from them.

  Attributes:
    peers: targets of the auxiliary peers, [K, B, C].
    leader: target of the leader, [B, C].
    distance: a function from logits and their target to [..., B].
  """

  peers: Array
  leader: Array
  distance: Callable[[Array, Array], Array]


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
  stop_gradient_values: bool = False,
  attend_to_self: bool = True,
) -> dict[str, Array]:
  r"""Loss terms of OKDDip: attentive peers, and a leader that follows them.

  Auxiliary peer a learns from :math:`t_a = \sum_f a_{af} z_f`, with the
  weights of `peer_attention`; the leader learns from the plain mean of the
  auxiliary peers. The loss is the sum over terms and peers of the mean over
  examples. A class that one of the peers masks is masked in means of logits.

  Args:
    peer_logits: logits of the auxiliary peers, float [K, B, C].
    leader_logits: logits of the leader, float [B, C]; None for a group
      without one, whose terms are then absent.
    queries: projected features of the auxiliary peers, float [K, B, E].
    keys: the same features through the other projection, float [K, B, E].
    labels: class indices, integer [B], or probabilities, float [B, C].
    temperature: positive scalar.
    kd_weight: scalar weight of the distillation terms, ramp-up included.
    eps: added to the softened targets, see `softened_kl`; not used if
      `aggregate` is "probs".
    aggregate: "logits" averages logits, as in the published code; "probs"
      averages softened probabilities, as in the paper.
    stop_gradient: treats the targets as constants, the attention included,
      which is then not trained. The published code lets gradients through.
    stop_gradient_values: treats the logits in targets as constants, but not the
      attention, which is trained; an extension of the published code.
    attend_to_self: whether a peer is part of its own target, as published;
      False leaves only the others.

  Returns:
    Weighted terms: "peer_ce" [K, B], "peer_kd" [K, B] and, with a leader,
    "leader_ce" [B], "leader_kd" [B].

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.
    ValueError: for an unknown `aggregate`, an invalid temperature, or a single
      peer that is to attend to others.

  References:
    Chen et al., `Online Knowledge Distillation with Diverse Peers
    <https://arxiv.org/abs/1912.00350>`_, AAAI 2020.

  >>> peers, leader = jnp.zeros((3, 2, 5)), jnp.zeros((2, 5))
  >>> features, labels = jnp.ones((3, 2, 4)), jnp.array([0, 1])
  >>> terms = jax.jit(okddip)(peers, leader, features, features, labels)
  >>> {name: term.shape for name, term in sorted(terms.items())}
  {'leader_ce': (2,), 'leader_kd': (2,), 'peer_ce': (3, 2), 'peer_kd': (3, 2)}
  """
  if aggregate not in ("logits", "probs"):
    expected = "'logits' (the published code) or 'probs' (the paper)"
    refuse("okddip", "aggregate", expected, repr(aggregate))
  check_temperature("okddip", temperature)
  check_not_negative("okddip", "eps", eps)
  check_weights("okddip", kd_weight=kd_weight)
  peer_logits, queries, keys = as_floats(
    "okddip",
    peer_logits=(peer_logits, "K B C"),
    queries=(queries, "K B E"),
    keys=(keys, "K B E"),
  )
  labels = as_labels("okddip", labels, peer_logits)
  at_least = 1 if attend_to_self else 2
  check_peers("okddip", "peer_logits", peer_logits, at_least)
  targets_of = _mean_logits if aggregate == "logits" else _mean_probs
  log_attention = log_peer_attention(queries, keys, attend_to_self)
  values = jax.lax.stop_gradient(peer_logits)
  targets = targets_of(
    values if stop_gradient_values else peer_logits,
    log_attention,
    temperature,
    eps,
  )
  stop = jax.lax.stop_gradient if stop_gradient else lambda target: target

  to_peers = targets.distance(peer_logits, stop(targets.peers))
  terms = {
    "peer_ce": nll(peer_logits, labels),
    "peer_kd": weighted(kd_weight, to_peers),
  }
  if leader_logits is not None:
    _, leader_logits = as_floats(
      "okddip",
      peer_logits=(peer_logits, "K B C"),
      leader_logits=(leader_logits, "B C"),
    )
    to_leader = targets.distance(leader_logits, stop(targets.leader))
    terms["leader_ce"] = nll(leader_logits, labels)
    terms["leader_kd"] = weighted(kd_weight, to_leader)
  return terms


def _mean_logits(
  logits: Array, log_attention: Array, temperature: Scalar, eps: float
) -> Targets:
  """Means of logits, as in the published code."""
  attention = jnp.exp(log_attention)
  return Targets(
    peers=weighted_sum("pbq,qbc->pbc", attention, logits),
    leader=jnp.mean(logits, axis=0),
    distance=lambda logits, target: kl(logits, target, temperature, eps),
  )


def _mean_probs(
  logits: Array, log_attention: Array, temperature: Scalar, eps: float
) -> Targets:
  """Logarithms of means of softened probabilities, as in the paper."""
  del eps
  log_probs = softened_log_softmax(logits, temperature)
  shares = log_attention[..., None] + jnp.moveaxis(log_probs, 0, 1)
  num_peers = log_probs.shape[0]

  def distance(logits, target):
    value = divergence(target, softened_log_softmax(logits, temperature))
    return jnp.square(jnp.asarray(temperature, value.dtype)) * value

  return Targets(
    peers=_log_sum(shares, axis=2),
    leader=_log_sum(log_probs, axis=0) - math.log(num_peers),
    distance=distance,
  )


def _log_sum(log_values: Array, axis: int) -> Array:
  """log of a sum; in log-space gradients stay finite at probability 0."""
  masked = jnp.all(log_values == -jnp.inf, axis=axis)
  known = jnp.where(jnp.expand_dims(masked, axis), 0, log_values)
  return jnp.where(masked, -jnp.inf, jax.nn.logsumexp(known, axis=axis))
