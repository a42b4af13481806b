"""The objective of feature fusion and self-distillation."""

from collections.abc import Sequence
import itertools

import jax
import jax.numpy as jnp

from okd_jax.losses._divergences import kl, nll
from okd_jax.losses._inputs import (
  Array,
  as_floats,
  as_list,
  check_temperature,
  check_weights,
  describe,
  refuse,
  Scalar,
  weighted,
)
from okd_jax.losses._labels import as_labels
from okd_jax.losses._maps import (
  attention_distance,
  diverse_attention,
  map_distance,
)
from okd_jax.losses._peers import mean_over_others

# The maps of all stages but the deepest, of every peer but the first.
MapsByPeer = Sequence[Sequence[Array]]


def ffsd(
  logits: Array,
  fused_logits: Array,
  labels: Array,
  deep_maps: Sequence[Array],
  fused_map: Array,
  widened_map: Array,
  shallow_maps: MapsByPeer,
  guided_maps: MapsByPeer,
  decoded_maps: MapsByPeer,
  *,
  temperature: Scalar = 2.0,
  kd_weight: Scalar = 1.0,
  diversity_weight: Scalar = 1e-5,
  guided_weight: Scalar | None = None,
  fusion_weight: Scalar = 10.0,
  self_weight: Scalar = 1000.0,
) -> dict[str, Array]:
  r"""Loss terms of FFSD: students, the fusion of their maps, and a leader.

  The S students are the first peers, the leader is the last. Between
  predictions, students teach each other pairwise, their mean teaches the fused
  classifier, and the fused classifier teaches the leader. Between maps,
  compared by `attention_distance`, student i learns to look at what student
  i - 1 ignores (`diverse_attention`); the leader's deepest map follows the
  fused map; shallow maps follow those decoded from a guide, which is that of
  `diverse_attention` for students and the fused map for the leader. Decoders
  learn to compute the shallow maps from the peer's own deepest one. All targets
  are constants. The loss is the sum over terms and peers of the mean over
  examples.

  Args:
    logits: logits of the peers, the leader's last, float [S + 1, B, C].
    fused_logits: logits of the classifier of the fused map, float [B, C].
    labels: class indices, integer [B], or probabilities, float [B, C].
    deep_maps: the deepest map of every peer, float [B, H, W, D].
    fused_map: the fusion of the students' maps, float [B, H, W, D'].
    widened_map: the leader's deepest map, widened to the channels of the
      students' concatenated ones, float [B, H, W, D''].
    shallow_maps: for every peer but the first, a list of its other maps, one
      for each stage, float [B, H, W, D].
    guided_maps: the same lists of maps decoded from the guides, which may have
      other numbers of channels.
    decoded_maps: the same lists of maps decoded from the peers' own deepest
      maps, of the same shapes as the shallow maps.
    temperature: positive scalar.
    kd_weight: scalar weight of all distillation between predictions.
    diversity_weight: scalar weight of the students' attention, ramp-up
      included.
    guided_weight: scalar weight of what students learn from guided maps,
      ramp-up included; None for that of their attention, as in the published
      code.
    fusion_weight: scalar weight of both terms of the leader.
    self_weight: scalar weight of the decoders' training, ramp-up included.

  Returns:
    Weighted terms: "peer_ce" and "peer_kd" [S, B]; "ensemble_ce" and
    "ensemble_kd" [B] of the fused classifier; "leader_ce", "leader_kd" [B];
    "peer_diversity" and "peer_self_kd" [S - 1, B]; "leader_map_kd",
    "leader_self_kd" [B]; "decoder" [S, B].

  Raises:
    AssertionError: if the shapes do not match or a dtype is wrong.
    ValueError: for fewer than two students or an invalid temperature.

  References:
    Li et al., `Distilling a Powerful Student Model via Online Knowledge
    Distillation <https://arxiv.org/abs/2103.14473>`_, 2022, published code.

  >>> logits, x = jnp.zeros((3, 2, 5)), jnp.ones((2, 4, 4, 3))
  >>> shallow = [[x], [x]]
  >>> terms = jax.jit(ffsd)(
  ...   logits, logits[0], jnp.array([0, 1]), [x, x, x], x,
  ...   jnp.ones((2, 4, 4, 6)), shallow, shallow, shallow)
  >>> terms["decoder"].shape, terms["peer_diversity"].shape
  ((2, 2), (1, 2))
  """
  guided_weight = diversity_weight if guided_weight is None else guided_weight
  check_temperature("ffsd", temperature)
  check_weights(
    "ffsd",
    kd_weight=kd_weight,
    diversity_weight=diversity_weight,
    guided_weight=guided_weight,
    fusion_weight=fusion_weight,
    self_weight=self_weight,
  )
  logits, fused_logits = as_floats(
    "ffsd", logits=(logits, "P B C"), fused_logits=(fused_logits, "B C")
  )
  labels = as_labels("ffsd", labels, logits)
  *deep_maps, fused_map, widened_map = _checked_deep_maps(
    logits, deep_maps, fused_map, widened_map
  )
  shallow_maps, guided_maps, decoded_maps = _checked_other_maps(
    logits,
    shallow_maps=shallow_maps,
    guided_maps=guided_maps,
    decoded_maps=decoded_maps,
  )

  joined = jnp.concatenate(deep_maps[:-1], axis=-1)
  fusing = attention_distance(deep_maps[-1], fused_map)
  fusing += attention_distance(widened_map, joined)
  guided = list(map(_attention_distances, shallow_maps, guided_maps))
  decoding = [
    _attention_distances(decoded, maps) + sum(map(map_distance, decoded, maps))
    for decoded, maps in zip(decoded_maps, shallow_maps, strict=True)
  ]
  return _between_predictions(
    logits, fused_logits, labels, temperature, kd_weight
  ) | {
    "peer_diversity": weighted(diversity_weight, _diversity(deep_maps[:-1])),
    "peer_self_kd": weighted(guided_weight, jnp.stack(guided[:-1])),
    "leader_self_kd": weighted(fusion_weight, guided[-1]),
    "leader_map_kd": weighted(fusion_weight, fusing),
    "decoder": weighted(self_weight, jnp.stack(decoding)),
  }


def _checked_deep_maps(
  logits, deep_maps, fused_map, widened_map
) -> list[Array]:
  """The deepest maps, the fused one and the widened one."""
  num_peers = len(logits)
  if num_peers < 3:
    expected = "an array with at least 3 peers on axis 0, two of them students"
    refuse("ffsd", "logits", expected, describe(logits))
  deep_maps = as_list("ffsd", "deep_maps", deep_maps)
  if len(deep_maps) != num_peers:
    refuse("ffsd", "deep_maps", f"{num_peers} maps", f"{len(deep_maps)}")
  checked = as_floats(
    "ffsd",
    logits=(logits, "P B C"),
    **{f"deep_maps[{i}]": (x, "B H W D") for i, x in enumerate(deep_maps)},
    fused_map=(fused_map, "B H W D'"),
    widened_map=(widened_map, "B H W D''"),
  )
  return checked[1:]


def _checked_other_maps(
  logits: Array, **by_peer: MapsByPeer
) -> list[list[list[Array]]]:
  """Shallow, guided and decoded maps of every peer but the first."""
  num_peers, count = len(logits) - 1, 0
  lists = []
  for argument, peers in by_peer.items():
    stages = [
      as_list("ffsd", f"{argument}[{i}]", maps)
      for i, maps in enumerate(as_list("ffsd", argument, peers))
    ]
    sizes = [len(maps) for maps in stages]
    count = count or max(sizes, default=0)
    if not count or sizes != num_peers * [count]:
      expected = f"as many maps, at least one, for each of {num_peers} peers"
      refuse("ffsd", argument, expected, f"{sizes}")
    lists.append(stages)
  for i, stage in itertools.product(range(num_peers), range(count)):
    axes = ("B H W D", "B H W D'", "B H W D")
    maps = {
      f"{argument}[{i}][{stage}]": (stages[i][stage], letters)
      for argument, stages, letters in zip(by_peer, lists, axes, strict=True)
    }
    as_floats("ffsd", logits=(logits, "P B C"), **maps)
  return lists


def _between_predictions(
  logits, fused, labels, temperature, kd_weight
) -> dict[str, Array]:
  students, leader = logits[:-1], logits[-1]
  targets = jax.lax.stop_gradient(students)
  mean, fused_target = jnp.mean(targets, axis=0), jax.lax.stop_gradient(fused)
  pairs = kl(students[:, None], targets[None], temperature)
  return {
    "peer_ce": nll(students, labels),
    "peer_kd": weighted(kd_weight, mean_over_others(pairs)),
    "ensemble_ce": nll(fused, labels),
    "ensemble_kd": weighted(kd_weight, kl(fused, mean, temperature)),
    "leader_ce": nll(leader, labels),
    "leader_kd": weighted(kd_weight, kl(leader, fused_target, temperature)),
  }


def _diversity(students: Sequence[Array]) -> Array:
  """Distance of students from what the one before ignores, [S - 1, B]."""
  return jnp.stack(
    [
      diverse_attention(maps, before)[0]
      for before, maps in itertools.pairwise(students)
    ]
  )


def _attention_distances(
  maps: Sequence[Array], targets: Sequence[Array]
) -> Array:
  """The sum over stages, [B]."""
  distances = list(map(attention_distance, maps, targets))
  return jnp.sum(jnp.stack(distances), axis=0)
