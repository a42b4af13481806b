"""What methods share for heat maps: every stack of a network has an output."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from okd_jax import core, losses
from okd_jax.core import Array

TASK = "keypoints"


def of_peers(name: str, outputs: core.Outputs) -> list[Sequence[Array]]:
  """The heat maps of every peer, one per stack, those of the trunk first.

  Raises:
    ConfigError: if the networks return no heat maps.
  """
  stages = core.require_maps(name, outputs, at_least=2)
  # The first is the map that all stacks start from.
  return [
    [stage[peer] for stage in stages if stage[peer] is not None][1:]
    for peer in range(len(outputs.logits))
  ]


def supervised(
  name: str, outputs: core.Outputs, batch: core.Batch
) -> dict[str, Array]:
  """The distance of every output from the target, summed over a peer's stacks.

  Returns:
    "peer_mse", [P, B], of the stacks of each peer; "shared_mse", [B], of the
    stacks of a shared trunk, if there are any.
  """
  target, weight = batch.target["maps"], batch.target["weight"]
  peers = of_peers(name, outputs)
  num_shared = max(outputs.num_shared - 1, 0)

  def summed(maps):
    return jnp.sum(losses.heatmap_mse(jnp.stack(maps), target, weight), 0)

  terms = {"peer_mse": jnp.stack([summed(maps[num_shared:]) for maps in peers])}
  if num_shared:
    terms["shared_mse"] = summed(peers[0][:num_shared])
  return terms


def taught(
  maps: Array, teacher: Array, weight: Array, *, temperature: float
) -> Array:
  """Divergence of every peer's maps from a teacher's, [P, B].

  Args:
    maps: heat maps of the P peers, [P, B, h, w, J].
    teacher: heat maps of the teacher, treated as a constant, [B, h, w, J].
    weight: weight of every joint, [B, J].
    temperature: temperature of the distillation.
  """
  fixed = jax.lax.stop_gradient(teacher)
  return losses.heatmap_kl(maps, fixed, weight, temperature=temperature)


def mutual(
  maps: Array,
  weight: Array,
  *,
  temperature: float,
  pairwise: bool,
  stop_gradient: bool,
) -> Array:
  """Divergence of every peer's maps from the others', [P, B].

  Args:
    maps: heat maps of the P peers, [P, B, h, w, J].
    weight: weight of every joint, [B, J].
    temperature: temperature of the distillation.
    pairwise: whether a peer learns from each of the others, instead of from the
      mean of their maps.
    stop_gradient: whether the others are treated as constants.
  """
  taught = jax.lax.stop_gradient(maps) if stop_gradient else maps
  num_others = len(maps) - 1

  def of_peer(i):
    others = jnp.concatenate([taught[:i], taught[i + 1 :]])
    teachers = others if pairwise else jnp.mean(others, 0, keepdims=True)
    each = [
      losses.heatmap_kl(maps[i], teacher, weight, temperature=temperature)
      for teacher in teachers
    ]
    return sum(each[1:], each[0]) / (num_others if pairwise else 1)

  return jnp.stack([of_peer(i) for i in range(len(maps))])
