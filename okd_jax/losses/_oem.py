"""The objective of online ensemble model compression."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from okd_jax.losses._divergences import kl, nll
from okd_jax.losses._inputs import (
  Array,
  as_floats,
  as_list,
  check_peers,
  check_temperature,
  check_weights,
  refuse,
  Scalar,
  weighted,
)
from okd_jax.losses._labels import as_labels


def oem(
  logits: Array,
  labels: Array,
  adapted: Sequence[Sequence[Array]],
  reference: Sequence[Array],
  *,
  temperature: Scalar = 2.0,
  ce_weight: Scalar = 0.7,
  feature_weight: Scalar = 0.15,
  kd_weight: Scalar = 0.15,
  feature_reduction: str = "mean",
) -> dict[str, Array]:
  r"""Loss terms of OEM: students of decreasing width and their ensemble.

  Every student learns from the mean of all logits,
  :math:`\tau^2 \mathrm{KL}(\bar z \| z_i)`, the widest one included. Every
  compressed student also learns the maps of the widest one, the sum over
  blocks of the mean of :math:`(A_{bi}(f_{bi}) - f_{b1})^2`. The loss is the sum
  over terms and peers of the mean over examples.

  Args:
    logits: logits of the students, the widest one first, float [P, B, C].
    labels: class indices, integer [B], or probabilities, float [B, C].
    adapted: for every block, a map for every compressed student, widened by
      its adapter to the channels of the reference, float [B, H, W, D].
    reference: for every block, the map of the widest student, float
      [B, H, W, D]; never given a gradient.
    temperature: positive scalar.
    ce_weight: scalar weight of the cross-entropy.
    feature_weight: scalar weight of the distance between maps.
    kd_weight: scalar weight of the distillation from the ensemble, which is
      treated as a constant.
    feature_reduction: "mean" takes the mean of the squares over positions and
      channels, as in the published code; "sum" takes their sum, as in the
      paper.

  Returns:
    Weighted terms: "peer_ce" and "peer_kd" [P, B], "feature" [P - 1, B].

  Raises:
    ValueError: if the shapes do not match or a dtype is wrong, and for fewer
      than two students, a wrong number of blocks or maps, an unknown
      `feature_reduction` or an invalid temperature.

  References:
    Walawalkar et al., `Online Ensemble Model Compression using Knowledge
    Distillation <https://arxiv.org/abs/2011.07449>`_, ECCV 2020, equations 3
    and 6; the factor :math:`\tau^2` as in the published code.

  >>> logits, maps = jnp.zeros((3, 2, 5)), jnp.ones((2, 4, 4, 8))
  >>> terms = oem(logits, jnp.array([0, 1]), [[maps, maps]], [maps])
  >>> {name: term.shape for name, term in sorted(terms.items())}
  {'feature': (2, 2), 'peer_ce': (3, 2), 'peer_kd': (3, 2)}
  """
  check_temperature("oem", temperature)
  check_weights(
    "oem",
    ce_weight=ce_weight,
    feature_weight=feature_weight,
    kd_weight=kd_weight,
  )
  (logits,) = as_floats("oem", logits=(logits, "P B C"))
  check_peers("oem", "logits", logits, at_least=2)
  labels = as_labels("oem", labels, logits)
  if feature_reduction not in ("mean", "sum"):
    expected = "'mean' (the published code) or 'sum' (the paper)"
    refuse("oem", "feature_reduction", expected, f"{feature_reduction!r}")
  num_peers, num_examples, _ = logits.shape
  adapted, reference = _as_blocks(adapted, reference, num_peers - 1)
  reduce = jnp.mean if feature_reduction == "mean" else jnp.sum
  feature = jnp.zeros((num_peers - 1, num_examples), logits.dtype)
  for maps, target in zip(adapted, reference, strict=True):
    gaps = []
    for student in maps:
      _, student, wanted = as_floats(
        "oem",
        logits=(logits, "P B C"),
        adapted=(student, "B H W D"),
        reference=(target, "B H W D"),
      )
      gap = student - jax.lax.stop_gradient(wanted)
      gaps.append(reduce(jnp.square(gap), axis=(1, 2, 3)))
    feature += jnp.stack(gaps)
  ensemble = jax.lax.stop_gradient(jnp.mean(logits, axis=0))
  return {
    "peer_ce": weighted(ce_weight, nll(logits, labels)),
    "peer_kd": weighted(kd_weight, kl(logits, ensemble, temperature)),
    "feature": weighted(feature_weight, feature),
  }


def _as_blocks(adapted, reference, num_compressed):
  """Returns the same as lists, after a check of their lengths."""
  adapted = as_list("oem", "adapted", adapted)
  reference = as_list("oem", "reference", reference)
  if len(adapted) != len(reference):
    expected = f"as many blocks as reference, {len(reference)}"
    refuse("oem", "adapted", expected, f"{len(adapted)}")
  blocks = []
  for block, maps in enumerate(adapted):
    maps = as_list("oem", f"adapted[{block}]", maps)
    if len(maps) != num_compressed:
      expected = f"a map for every compressed student, {num_compressed}"
      refuse("oem", f"adapted[{block}]", expected, f"{len(maps)}")
    blocks.append(maps)
  return blocks, reference
