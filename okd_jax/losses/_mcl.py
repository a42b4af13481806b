"""The objective of mutual contrastive learning within a batch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from okd_jax.losses._divergences import kl, nll
from okd_jax.losses._inputs import (
  Array,
  as_floats,
  check_peers,
  check_temperature,
  check_weights,
  describe,
  on_host,
  refuse,
  Scalar,
  weighted,
)
from okd_jax.losses._labels import as_labels
from okd_jax.losses._peers import HIGHEST, sum_over_others


def supervised_nce(similarity: Array, labels: Array) -> Array:
  r"""Contrast of every example with the batch; positives share its class.

  With :math:`P(a)` the other examples of a's class, computes
  :math:`-\frac{1}{|P(a)|} \sum_{p \in P(a)} [S_{ap} - \log \sum_{k \ne a}
  e^{S_{ak}}]`. An example that is alone in its class is left out: its value is
  zero, and those of the others are scaled by B over their number, so that the
  mean over the batch is the mean over these others.

  Args:
    similarity: similarity of the examples (rows) to the batch (columns),
      already divided by the temperature, float [..., B, B]. The diagonal is not
      used.
    labels: class indices, integer [B].

  Returns:
    [..., B], float32 or float64.

  Raises:
    ValueError: if the shapes do not match or a dtype is wrong, and for soft
      labels.

  References:
    Yang et al., `Mutual Contrastive Learning for Visual Representation
    Learning <https://arxiv.org/abs/2104.12565>`_, AAAI 2022, as in the
    published code, where every example has a positive.

  >>> similarity = jnp.zeros((3, 3))
  >>> supervised_nce(similarity, jnp.array([0, 0, 1])).round(2)
  Array([1.04, 1.04, 0.  ], dtype=float32)
  """
  labels = _as_classes("supervised_nce", labels)
  (num_examples,) = labels.shape
  (similarity,) = as_floats(
    "supervised_nce", similarity=(similarity, "... B B")
  )
  if similarity.shape[-1] != num_examples:
    expected = f"float [..., {num_examples}, {num_examples}], as the labels are"
    refuse("supervised_nce", "similarity", expected, describe(similarity))
  labels, similarity = _whole(labels), _whole(similarity)
  others = ~jnp.eye(num_examples, dtype=bool)
  positives = (labels[:, None] == labels) & others
  # Finite, so that a batch of one has gradients.
  lowest = jnp.finfo(similarity.dtype).min
  total = jax.nn.logsumexp(jnp.where(others, similarity, lowest), axis=-1)
  costs = jnp.where(positives, total[..., None] - similarity, 0)
  count = jnp.sum(positives, axis=-1).astype(similarity.dtype)
  num_valid = jnp.sum(count > 0).astype(similarity.dtype)
  shares = num_examples / jnp.maximum(num_valid, 1) / jnp.maximum(count, 1)
  return jnp.sum(costs, axis=-1) * shares


def mcl(
  logits: Array,
  embeddings: Array,
  labels: Array,
  *,
  nce_temperature: Scalar = 0.1,
  temperature: Scalar = 3.0,
  vcl_weight: Scalar = 0.1,
  soft_vcl_weight: Scalar = 1.0,
  icl_weight: Scalar = 0.1,
  soft_icl_weight: Scalar = 1.0,
  logit_kd: str = "off",
  mask_diagonal: bool = False,
) -> dict[str, Array]:
  r"""Loss terms of MCL: contrast within and between peers, and its exchange.

  With :math:`S_{ij} = e_i e_j^\top` divided by the temperature of the contrast
  (rows are the examples as seen by peer i), and NCE as in `supervised_nce`:

  - VCL: :math:`\mathrm{NCE}(S_{ii})`;
  - ICL: :math:`\sum_{j \ne i} \mathrm{NCE}(S_{ij})`;
  - soft VCL: :math:`\sum_{j \ne i} \tau^2 \mathrm{KL}(S_{jj} \| S_{ii})`;
  - soft ICL: :math:`\sum_{j \ne i} \tau^2 \mathrm{KL}(S_{ji} \| S_{ij})`;

  The divergences are between softmaxes of whole rows, and their first argument
  is a constant. The loss is the sum over terms and peers of the mean over
  examples.

  Args:
    logits: float [P, B, C].
    embeddings: projected features of Euclidean norm 1, float [P, B, d].
    labels: class indices, integer [B].
    nce_temperature: temperature of the similarities, a positive scalar.
    temperature: temperature of the divergences, a positive scalar.
    vcl_weight: scalar weight of the contrast within peers (VCL).
    soft_vcl_weight: scalar weight of its exchange (soft VCL).
    icl_weight: scalar weight of the contrast between peers (ICL).
    soft_icl_weight: scalar weight of its exchange (soft ICL).
    logit_kd: "all" adds :math:`\tau^2 \mathrm{KL}(\bar z \| z_i)` for every
      peer, with the mean logits as a constant target, as the published code
      does for two peers; "last" adds it for the last peer only, as that code
      does for more peers; "off" adds nothing.
    mask_diagonal: whether soft VCL and soft ICL leave out the similarity of an
      example to itself, which is the largest one; the published code keeps it.

  Returns:
    Weighted terms "peer_ce", "vcl", "soft_vcl", "icl", "soft_icl", [P, B] each;
    with `logit_kd` "peer_kd" [P, B] for "all", "leader_kd" [B] for "last".

  Raises:
    ValueError: if the shapes do not match or a dtype is wrong, and for fewer
      than two peers, soft labels, an unknown `logit_kd` or an invalid
      temperature.

  References:
    Yang et al., `Mutual Contrastive Learning for Visual Representation
    Learning <https://arxiv.org/abs/2104.12565>`_, AAAI 2022, as in the
    published code.

  >>> logits, embeddings = jnp.zeros((2, 4, 5)), jnp.ones((2, 4, 1))
  >>> terms = jax.jit(mcl)(logits, embeddings, jnp.array([0, 0, 1, 1]))
  >>> sorted(terms)
  ['icl', 'peer_ce', 'soft_icl', 'soft_vcl', 'vcl']
  """
  check_temperature("mcl", temperature)
  check_temperature("mcl", nce_temperature, "nce_temperature")
  check_weights(
    "mcl",
    vcl_weight=vcl_weight,
    soft_vcl_weight=soft_vcl_weight,
    icl_weight=icl_weight,
    soft_icl_weight=soft_icl_weight,
  )
  classes = _as_classes("mcl", labels)
  logits, embeddings = as_floats(
    "mcl", logits=(logits, "P B C"), embeddings=(embeddings, "P B d")
  )
  check_peers("mcl", "logits", logits, at_least=2)
  labels = as_labels("mcl", labels, logits)
  if logit_kd not in ("off", "last", "all"):
    refuse("mcl", "logit_kd", "'off', 'last' or 'all'", f"{logit_kd!r}")
  own, cross = _similarities(embeddings, nce_temperature)

  exchange = functools.partial(
    _exchange, temperature=temperature, mask_diagonal=mask_diagonal
  )
  terms = {
    "peer_ce": nll(logits, labels),
    "vcl": weighted(vcl_weight, supervised_nce(own, classes)),
    "soft_vcl": weighted(soft_vcl_weight, exchange(own[:, None], own[None])),
    "icl": weighted(
      icl_weight, sum_over_others(supervised_nce(cross, classes))
    ),
    "soft_icl": weighted(
      soft_icl_weight, exchange(cross, jnp.swapaxes(cross, 0, 1))
    ),
  }
  if logit_kd != "off":
    target = jax.lax.stop_gradient(jnp.mean(logits, axis=0))
    pulls = kl(logits, target, temperature)
    terms |= (
      {"peer_kd": pulls} if logit_kd == "all" else {"leader_kd": pulls[-1]}
    )
  return terms


def _exchange(students, targets, temperature, mask_diagonal):
  """What peers learn from others' rows, [P, B] from [P, P, B, B]."""
  num_examples = students.shape[-1]
  # Rows of no columns have no softmax.
  if num_examples == 0 or (mask_diagonal and num_examples == 1):
    shape = jnp.broadcast_shapes(students.shape, targets.shape)
    return jnp.zeros(shape[1:3], students.dtype)
  if mask_diagonal:
    itself = jnp.eye(num_examples, dtype=bool)
    students, targets = (
      jnp.where(itself, -jnp.inf, rows) for rows in (students, targets)
    )
  targets = jax.lax.stop_gradient(targets)
  return sum_over_others(kl(students, targets, temperature))


def _similarities(embeddings, temperature):
  """[P, B, B] within peers, and [P, P, B, B] between them."""
  rows = embeddings / jnp.asarray(temperature, embeddings.dtype)
  columns = _whole(embeddings)
  rows = _whole(rows)
  own = jnp.einsum("pbd,pcd->pbc", rows, columns, precision=HIGHEST)
  cross = jnp.einsum("pbd,qcd->pqbc", rows, columns, precision=HIGHEST)
  return own, cross


def _whole(x: Array) -> Array:
  """x on every device if the mesh is explicit, as rows need all columns."""
  if all(axis is None for axis in jax.typeof(x).sharding.spec):
    return x
  return jax.sharding.reshard(x, jax.sharding.PartitionSpec(*[None] * x.ndim))


def _as_classes(function: str, labels: Any) -> Array:
  """Integers [B], the same for the examples of a class."""
  host = on_host(labels)
  known = labels if host is None else host
  if not jnp.issubdtype(known.dtype, jnp.integer) or known.ndim != 1:
    expected = "class indices, integer [B]: examples of one are the positives"
    refuse(function, "labels", expected, describe(labels))
  if host is not None:
    # Renumbered, as jax would cut 64 bits to 32 and so merge classes.
    labels = np.unique(host, return_inverse=True)[1]
  return jnp.asarray(labels)
