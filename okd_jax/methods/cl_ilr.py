"""CL-ILR: collaborative learning with shared low-level layers."""

from okd_jax import core, losses


class Method(core.Method):
  """Branches learn from the mean of the others; the trunk is spared their sum.

  Song and Chai, "Collaborative Learning for Deep Neural Networks", NeurIPS
  2018: the gradient that enters the trunk is the mean over branches. The rest
  follows the code of Chen et al., AAAI 2020: hard and soft losses are added and
  gradient flows through the targets. Song and Chai mix them with a coefficient
  b, whose value could not be found: `ce_weight` is b, `kd_weight` 1 - b.

  Attributes:
    temperature: temperature of the distillation.
    ce_weight: weight of the cross-entropy.
    kd_weight: weight of the distillation, which the ramp-up multiplies.
    eps: constant added to the softened target probabilities.
    stop_gradient: whether targets are treated as constants.
  """

  temperature: float = core.positive(3.0)
  ce_weight: float = core.at_least(1.0, 0, added=True)
  kd_weight: float = core.at_least(1.0, 0)
  eps: float = core.between(1e-7, 0, 1)
  stop_gradient: bool = core.flag(False)

  @property
  def compared(self):
    # As Chen et al., AAAI 2020.
    return "peers_mean"

  @property
  def needs(self):
    return core.Needs(kind="branches", trunk_gradient="mean")

  @property
  def joint(self):
    return not self.stop_gradient

  @property
  def min_peers(self):
    return 2

  def __call__(self, outputs, batch, ctx):
    core.require_peers("cl_ilr", outputs, self.min_peers)
    return core.MethodOutput(
      losses.cl_ilr(
        outputs.logits,
        batch.target,
        temperature=self.temperature,
        ce_weight=self.ce_weight,
        kd_weight=self.kd_weight * ctx.rampup,
        eps=self.eps,
        stop_gradient=self.stop_gradient,
      )
    )
