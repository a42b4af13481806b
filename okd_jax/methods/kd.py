"""Distillation from a teacher that was trained before."""

from okd_jax import core, losses
from okd_jax.methods import _heat_maps


class Method(core.Method):
  """Every peer learns from the labels and from one frozen teacher.

  Hinton et al., "Distilling the Knowledge in a Neural Network", 2015. The
  defaults are those of the code of Chen et al., AAAI 2020, which has no
  ramp-up. Several peers are as many separate students. Heat maps are treated as
  distributions over pixels, in the scale of OKDHP; the outputs of all stacks
  learn the target, and those of the last stacks also learn from the teacher.

  Attributes:
    temperature: temperature of the distillation.
    kd_weight: weight of the distillation.
    eps: constant added to the softened target probabilities of classes.
  """

  temperature: float = core.positive(3.0)
  kd_weight: float = core.at_least(1.0, 0)
  eps: float = core.between(1e-7, 0, 1)

  @property
  def tasks(self):
    return (self.task, _heat_maps.TASK)

  @property
  def needs(self):
    return core.Needs(teacher=True)

  def __call__(self, outputs, batch, ctx):
    if isinstance(batch.target, dict):
      terms = _heat_maps.supervised("kd", outputs, batch)
      terms["peer_kd"] = self.kd_weight * _heat_maps.taught(
        outputs.logits,
        outputs.teacher.logits[0],
        batch.target["weight"],
        temperature=self.temperature,
      )
      return core.MethodOutput(terms)
    return core.MethodOutput(
      losses.kd(
        outputs.logits,
        outputs.teacher.logits[0],
        batch.target,
        temperature=self.temperature,
        kd_weight=self.kd_weight,
        eps=self.eps,
      )
    )
