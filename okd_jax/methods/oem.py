"""OEM: online ensemble model compression."""

from typing import Any

from flax import linen as nn
import jax.numpy as jnp

from okd_jax import backbones, core, layers, losses
from okd_jax.errors import ConfigError
from okd_jax.methods import _feature_maps

# As in all of the paper's experiments.
NUM_STUDENTS = 5


def shrinking(net: str) -> dict[str, Any]:
  """Settings by path for students of a network that share only its stem."""
  return {
    "peers.net": ",".join(backbones.student_names(net, NUM_STUDENTS)),
    "peers.num_peers": NUM_STUDENTS,
    "peers.split": -1,
  }


class Method(core.Method):
  """Students of decreasing width on one stem learn from their mean.

  Walawalkar et al., "Online Ensemble Model Compression using Knowledge
  Distillation", ECCV 2020, as in the authors' code. The first student is the
  uncompressed network, the pseudo teacher. Every other student also learns the
  maps of the pseudo teacher, through an adapter, which is one linear layer
  applied at each position. Any student can be deployed.

  Attributes:
    temperature: temperature of the distillation.
    ce_weight: weight of the cross-entropy.
    feature_weight: weight of the distance between maps.
    kd_weight: weight of the distillation.
    feature_reduction: whether the distance between maps is a "mean" over
      positions and channels, as in the code, or a "sum", as in the paper.
    adapters: whether maps are compared channel by channel, behind an adapter;
      otherwise their means over channels are compared, as in an ablation of
      the code.
    base_grad: who trains the stem: "all" students, or only the
      "pseudo_teacher", the first of them.
  """

  temperature: float = core.positive(2.0)
  ce_weight: float = core.at_least(0.7, 0)
  feature_weight: float = core.at_least(0.15, 0)
  kd_weight: float = core.at_least(0.15, 0)
  feature_reduction: str = core.one_of("mean", "mean", "sum")
  adapters: bool = core.flag(True, added=True)
  base_grad: str = core.one_of("all", "all", "pseudo_teacher")

  @property
  def needs(self):
    return core.Needs(
      kind="branches",
      raw_maps=True,
      trunk_gradient="sum" if self.base_grad == "all" else "first",
    )

  @property
  def deployed_as(self):
    return "widest student"

  @nn.nowrap  # builds networks
  def settings_compared(self, net, teacher_net):
    try:
      backbones.students(net, 1, NUM_STUDENTS, split=0)
    except ConfigError:
      return {}  # it has no narrower form
    return shrinking(net)

  @property
  def min_peers(self):
    return 2

  @nn.compact
  def __call__(self, outputs, batch, ctx):
    core.require_peers("oem", outputs, self.min_peers)
    blocks = _feature_maps.of_stages("oem", outputs)
    if self.adapters:
      adapted = [
        [
          layers.linear(
            maps,
            blocks[block][0].shape[-1],
            name=f"adapter_{block}_{student}",
          )
          for student, maps in enumerate(stage[1:], 1)
        ]
        for block, stage in enumerate(blocks)
      ]
    else:
      blocks = [
        [jnp.mean(maps, axis=-1, keepdims=True) for maps in stage]
        for stage in blocks
      ]
      adapted = [stage[1:] for stage in blocks]
    return core.MethodOutput(
      losses.oem(
        outputs.logits,
        batch.target,
        adapted,
        [stage[0] for stage in blocks],
        temperature=self.temperature,
        ce_weight=self.ce_weight,
        feature_weight=self.feature_weight,
        kd_weight=self.kd_weight,
        feature_reduction=self.feature_reduction,
      )
    )
