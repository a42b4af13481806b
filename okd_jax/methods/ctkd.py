"""CTKD: knowledge distillation via collaborative teaching."""

import jax.numpy as jnp

from okd_jax import core, losses
from okd_jax.core import Array
from okd_jax.errors import ConfigError
from okd_jax.methods import _feature_maps


class Method(core.Method):
  """A student learns from a teacher in training and from an expert's attention.

  Zhao et al., "Highlight Every Step: Knowledge Distillation via Collaborative
  Teaching", 2019, as in the authors' code. The last peer is the teacher that is
  trained from scratch; the student follows its logits at every step. An expert,
  trained before, guides the attention of the student. Every peer but the last
  is a separate student. The paper's weights could not be found; the defaults
  are those of the methods that it combines.

  Attributes:
    hint_weight: weight of the distance to the logits of the teacher from
      scratch.
    attention_weight: weight of the distance to the expert's attention; with 0
      no expert is needed.
    attention_on: whose attention the expert guides: that of the "student", as
      in the paper, or that of the teacher from "scratch", as in the authors'
      code.
    stop_gradient: whether the logits of the teacher from scratch are treated as
      constants.
  """

  hint_weight: float = core.at_least(0.03, 0)
  attention_weight: float = core.at_least(1000.0, 0)
  attention_on: str = core.one_of("student", "student", "scratch")
  stop_gradient: bool = core.flag(True)

  @property
  def needs(self):
    return core.Needs(teacher=self.attention_weight > 0, raw_maps=True)

  @property
  def joint(self):
    return not self.stop_gradient

  @property
  def published_kind(self):
    return "branches"

  @property
  def deployed_as(self):
    return "student"

  def settings_compared(self, net, teacher_net):
    return {
      "peers.net": f"{net},{teacher_net}",
      "peers.num_peers": 2,
      "peers.split": -1,
    }

  @property
  def min_peers(self):
    return 2

  def members(self, num_peers):
    return tuple(range(num_peers - 1))

  def __call__(self, outputs, batch, ctx):
    core.require_peers("ctkd", outputs, self.min_peers)
    if not ctx.train:
      return core.MethodOutput({})
    each = []
    for student in self.members(len(outputs.logits)):
      guided = student if self.attention_on == "student" else -1
      maps, expert_maps = self._maps(outputs, guided)
      each.append(
        losses.ctkd(
          outputs.logits[student],
          outputs.logits[-1],
          batch.target,
          maps,
          expert_maps,
          hint_weight=self.hint_weight,
          attention_weight=self.attention_weight,
          stop_gradient=self.stop_gradient,
        )
      )
    terms = {
      name: jnp.stack([own[name] for own in each])
      for name in ("student_ce", "hint", "attention")
    }
    if self.attention_on == "scratch":
      terms["attention"] = each[0]["attention"]
    return core.MethodOutput(terms | {"scratch_ce": each[0]["scratch_ce"]})

  def _maps(
    self, outputs: core.Outputs, peer: int
  ) -> tuple[list[Array], list[Array]]:
    """A map a stage of a peer and of the expert, the deepest one last."""
    if outputs.teacher is None or not self.attention_weight:
      return [], []
    stages = _feature_maps.of_stages("ctkd", outputs)
    expert_stages = _feature_maps.of_stages("ctkd", outputs.teacher)
    count = min(len(stages), len(expert_stages))
    maps = [stage[peer] for stage in stages[-count:]]
    expert_maps = [stage[0] for stage in expert_stages[-count:]]
    for ours, theirs in zip(maps, expert_maps, strict=True):
      if ours.shape[1:3] != theirs.shape[1:3]:
        raise ConfigError(
          f"config.teacher: the expert has a map of {theirs.shape[1:3]} "
          f"positions where the peers have one of {ours.shape[1:3]}; name an "
          "expert whose stages have the sizes of the peers' stages, or set "
          "config.method.attention_weight=0."
        )
    return maps, expert_maps
