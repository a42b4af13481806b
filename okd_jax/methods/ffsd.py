"""FFSD: feature fusion and self-distillation."""

from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from okd_jax import core, layers, losses, schedules
from okd_jax.core import Array
from okd_jax.methods._fusion import conv_norm_relu, Fusion


class Decoder(nn.Module):
  """Turns a network's deepest map back into those of its shallower stages."""

  @nn.compact
  def __call__(
    self, x: Array, stages: Sequence[Array], *, train: bool
  ) -> list[Array]:
    """Returns maps shaped like those of `stages`, shallowest first.

    Args:
      x: the deepest map [B, H, W, D].
      stages: maps of the other stages, shallowest first, for their shapes.
      train: whether batch statistics normalise.
    """
    decoded = []
    for number, like in reversed(list(enumerate(stages, start=1))):
      _, height, width, features = like.shape
      stride = (-(-height // x.shape[1]), -(-width // x.shape[2]))
      x = nn.ConvTranspose(
        features,
        (3, 3),
        strides=stride,
        padding=[(1, s) for s in stride],
        use_bias=False,
        kernel_init=layers.he_fan_out,
        name=f"stage{number}_conv",
      )(x)
      norm = layers.BatchNorm(name=f"stage{number}_norm")
      x = nn.relu(norm(x, use_running_average=not train))
      x = x[:, :height, :width]
      decoded.append(x)
    return decoded[::-1]


class TransFusion(nn.Module):
  """Widens the leader's last map to the size of the joined students'."""

  num_students: int

  @nn.compact
  def __call__(self, x: Array, *, train: bool) -> Array:
    """[B, H, W, D] to [B, H, W, num_students * D]."""
    width = x.shape[-1] * self.num_students
    x = conv_norm_relu(x, None, train, "depth")
    return conv_norm_relu(x, width, train, "point")


class Method(core.Method):
  """Students teach each other; their fused maps teach a leader, the last peer.

  Li et al., "Distilling a Powerful Student Model via Online Knowledge
  Distillation", 2022, as in the authors' code. Beside the labels and softened
  predictions, students are driven to look at what the one before them ignores,
  and students and leader learn in their shallower stages from maps decoded
  from deep ones. All targets are constants; only the leader is deployed.

  Attributes:
    temperature: of all distillation between predictions, which is not ramped.
    kd_weight: of all distillation between predictions.
    diversity_weight: of the students' attention and of their self-distillation.
    fusion_weight: of the leader's attention and self-distillation.
    self_weight: of the decoders' own training.
    map_rampup_epochs: ramp-up of these three, with epochs counted from 1.
    fusion_weight_decay: of the fusion module's parameters.
  """

  temperature: float = core.positive(2.0)
  kd_weight: float = core.at_least(1.0, 0)
  diversity_weight: float = core.at_least(1e-5, 0)
  fusion_weight: float = core.at_least(10.0, 0)
  self_weight: float = core.at_least(1000.0, 0)
  map_rampup_epochs: float = core.at_least(5.0, 0)
  fusion_weight_decay: float = core.at_least(1e-5, 0)

  @property
  def deployed_as(self):
    return "leader"

  @property
  def needs(self):
    # Branches have the maps of their own stages only.
    return core.Needs(kind="replicas")

  @property
  def leader(self):
    return -1

  @property
  def min_peers(self):
    return 3

  @property
  def optimizer_overrides(self):
    return {
      "method/fusion": {"weight_decay": self.fusion_weight_decay},
      "method/decoder": {"weight_decay": 1e-4, "adam_rate": 1e-3},
    }

  def members(self, num_peers):
    return tuple(range(num_peers - 1))

  @nn.compact
  def __call__(self, outputs, batch, ctx):
    core.require_peers("ffsd", outputs, self.min_peers)
    maps = core.require_maps("ffsd", outputs, at_least=2)
    stages = [[layers.at_least_float32(m) for m in stage] for stage in maps]
    # For every peer its shallower stages, and its deepest map.
    shallow, deep = list(zip(*stages[:-1], strict=True)), stages[-1]
    num_students = len(deep) - 1
    students = jax.lax.stop_gradient(deep[:-1])
    fusion = Fusion(outputs.logits.shape[-1], name="fusion")
    fused_map, fused = fusion(students, train=ctx.train)
    terms = self._between_predictions(outputs.logits, fused, batch.target)

    ramp = schedules.rampup(ctx.epoch + 1, self.map_rampup_epochs)
    diversity, own, decoding = [], [], []
    for i in range(1, num_students + 1):
      decoder = Decoder(name=f"decoder_{i}")
      if i < num_students:
        distance, guide = losses.diverse_attention(deep[i], deep[i - 1])
        diversity.append(distance)
      else:
        guide = fused_map
      # With running statistics first: training passes move them.
      targets = decoder(jax.lax.stop_gradient(guide), shallow[i], train=False)
      own.append(_attention_distances(shallow[i], targets))
      source = jax.lax.stop_gradient(deep[i])
      decoded = decoder(source, shallow[i], train=ctx.train)
      decoding.append(
        _attention_distances(decoded, shallow[i])
        + sum(map(losses.map_distance, decoded, shallow[i]))
      )

    leader = deep[-1]
    widened = TransFusion(num_students, name="trans")(leader, train=ctx.train)
    fusing = losses.attention_distance(leader, fused_map)
    fusing += losses.attention_distance(widened, jnp.concatenate(students, -1))
    terms |= {
      "peer_diversity": self.diversity_weight * ramp * jnp.stack(diversity),
      "peer_self_kd": self.diversity_weight * ramp * jnp.stack(own[:-1]),
      "leader_self_kd": self.fusion_weight * ramp * own[-1],
      "leader_map_kd": self.fusion_weight * ramp * fusing,
      "decoder": self.self_weight * ramp * jnp.stack(decoding),
    }
    return core.MethodOutput(terms, {"fused": fused})

  def _between_predictions(self, logits, fused, labels):
    settings: dict[str, Any] = {
      "temperature": self.temperature,
      "kd_weight": self.kd_weight,
      "eps": 0.0,
    }
    students, leader = logits[:-1], logits[-1]
    terms = losses.dml(students, labels, **settings)
    for name, student, teacher in (
      ("ensemble", fused, jnp.mean(students, 0)),
      ("leader", leader, fused),
    ):
      taught = losses.kd(student, teacher, labels, **settings)
      terms[f"{name}_ce"] = taught["peer_ce"]
      terms[f"{name}_kd"] = taught["peer_kd"]
    return terms


def _attention_distances(maps: Sequence[Array], targets: Sequence[Array]):
  return sum(map(losses.attention_distance, maps, targets))
