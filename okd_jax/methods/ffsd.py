"""FFSD: feature fusion and self-distillation."""

from collections.abc import Sequence

from flax import linen as nn
import jax

from okd_jax import core, layers, losses, schedules
from okd_jax.core import Array
from okd_jax.errors import ConfigError
from okd_jax.methods import _feature_maps
from okd_jax.methods._fusion import conv_norm_relu, Fusion


class Decoder(nn.Module):
  """Computes maps of the shallower stages from a network's deepest map."""

  @nn.compact
  def __call__(
    self, x: Array, stages: Sequence[Array], *, train: bool
  ) -> list[Array]:
    """Returns maps shaped like those of `stages`, shallowest first.

    Args:
      x: the deepest map [B, H, W, D].
      stages: maps of the other stages, shallowest first; only their shapes
        matter.
      train: whether batch norm uses the statistics of the batch.
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
  """Widens the leader's last map to the width of all students' maps joined."""

  num_students: int

  @nn.compact
  def __call__(self, x: Array, *, train: bool) -> Array:
    """Maps [B, H, W, D] to [B, H, W, num_students * D]."""
    width = x.shape[-1] * self.num_students
    x = conv_norm_relu(x, None, train, "depth")
    return conv_norm_relu(x, width, train, "point")


class Method(core.Method):
  """Students teach each other; their fused maps teach a leader, the last peer.

  Li et al., "Distilling a Powerful Student Model via Online Knowledge
  Distillation", 2022, as in the authors' code. Students and leader learn from
  the labels and from softened predictions. In addition, each student is trained
  to look at what the student before it ignores, and the shallower stages of
  students and leader learn from maps decoded from deep ones. All targets are
  constants; only the leader is deployed.

  Attributes:
    temperature: temperature of all distillation between predictions, which has
      no ramp-up.
    kd_weight: weight of all distillation between predictions.
    diversity_weight: weight of the students' attention and of their
      self-distillation.
    guided_factor: further factor of the students' self-distillation.
    fusion_weight: weight of the leader's attention and self-distillation.
    self_weight: weight of the decoders' own training.
    map_rampup_epochs: length of the ramp-up of diversity_weight, fusion_weight
      and self_weight, with epochs counted from 1.
    fusion_weight_decay: weight decay of the fusion module's parameters.
  """

  temperature: float = core.positive(2.0)
  kd_weight: float = core.at_least(1.0, 0)
  diversity_weight: float = core.at_least(1e-5, 0)
  guided_factor: float = core.at_least(1.0, 0, added=True)
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
    stages = _feature_maps.of_stages("ffsd", outputs, at_least=2)
    # The shallower stages and the deepest map of every peer.
    shallow, deep = list(zip(*stages[:-1], strict=True)), stages[-1]
    _require_alike([tuple(m.shape[1:]) for m in deep])
    num_students = len(deep) - 1
    students = jax.lax.stop_gradient(deep[:-1])
    fusion = Fusion(outputs.logits.shape[-1], name="fusion")
    fused_map, fused = fusion(students, train=ctx.train)
    guided, decoded = [], []
    for i in range(1, num_students + 1):
      decoder = Decoder(name=f"decoder_{i}")
      if i < num_students:
        _, guide = losses.diverse_attention(deep[i], deep[i - 1])
      else:
        guide = jax.lax.stop_gradient(fused_map)
      # The pass with running statistics first: the training pass changes them.
      guided.append(decoder(guide, shallow[i], train=False))
      source = jax.lax.stop_gradient(deep[i])
      decoded.append(decoder(source, shallow[i], train=ctx.train))
    trans = TransFusion(num_students, name="trans")
    ramp = schedules.rampup(ctx.epoch + 1, self.map_rampup_epochs)
    terms = losses.ffsd(
      outputs.logits,
      fused,
      batch.target,
      deep,
      fused_map,
      trans(deep[-1], train=ctx.train),
      shallow[1:],
      guided,
      decoded,
      temperature=self.temperature,
      kd_weight=self.kd_weight,
      diversity_weight=self.diversity_weight * ramp,
      guided_weight=self.guided_factor * self.diversity_weight * ramp,
      fusion_weight=self.fusion_weight * ramp,
      self_weight=self.self_weight * ramp,
    )
    return core.MethodOutput(terms, {"fused": fused})


def _require_alike(shapes: Sequence[tuple[int, ...]]) -> None:
  """Raises ConfigError unless the peers' deepest maps are of one shape."""
  if len(set(shapes)) > 1:
    listed = ", ".join(" x ".join(map(str, shape)) for shape in shapes)
    raise ConfigError(
      "method 'ffsd' compares the last maps of its peers, which must be of one "
      f"height, width and number of channels; they are {listed}. Name networks "
      "that end alike in config.peers.net, for example resnet20 and resnet32."
    )
