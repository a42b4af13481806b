"""ONE: knowledge distillation by an on-the-fly native ensemble."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from okd_jax import core, layers, losses


class Method(core.Method):
  """A gate on the shared trunk weights the branches; all learn from the sum.

  Lan et al., "Knowledge Distillation by On-the-Fly Native Ensemble", NeurIPS
  2018. The defaults are those of the code of Chen et al., AAAI 2020, in which
  gradient flows through the target; the paper has `stop_gradient=True` and
  three branches. For every network the gate is initialised as that code does it
  for residual networks.

  Attributes:
    temperature: temperature of the distillation.
    kd_weight: weight of the distillation, which the ramp-up multiplies.
    eps: constant added to the softened target probabilities.
    stop_gradient: whether the ensemble is treated as a constant where it is the
      target.
  """

  temperature: float = core.positive(3.0)
  kd_weight: float = core.at_least(1.0, 0)
  eps: float = core.between(1e-7, 0, 1)
  stop_gradient: bool = core.flag(False)

  @property
  def compared(self):
    # As Chen et al., AAAI 2020.
    return "peers_mean"

  @property
  def needs(self):
    return core.Needs(kind="branches")

  @property
  def joint(self):
    return not self.stop_gradient

  @property
  def min_peers(self):
    return 2

  @nn.compact
  def __call__(self, outputs, batch, ctx):
    core.require_peers("one", outputs, self.min_peers)
    trunk = core.require_trunk("one", outputs)
    scores = layers.linear(trunk, len(outputs.logits), name="gate")
    norm = layers.BatchNorm(name="norm")
    scores = nn.relu(norm(scores, use_running_average=not ctx.train))
    gate = jax.nn.softmax(scores).T
    terms = losses.one(
      outputs.logits,
      gate,
      batch.target,
      temperature=self.temperature,
      kd_weight=self.kd_weight * ctx.rampup,
      eps=self.eps,
      stop_gradient=self.stop_gradient,
    )
    ensemble = jnp.sum(gate[..., None] * outputs.logits, 0)
    return core.MethodOutput(
      terms, {"gated_ensemble": ensemble}, {"gate": jnp.mean(gate, 1)}
    )
