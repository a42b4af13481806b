"""FFL: feature fusion learning."""

from flax import linen as nn
import jax

from okd_jax import core, losses
from okd_jax.methods import _feature_maps
from okd_jax.methods._fusion import Fusion


class Method(core.Method):
  """Peers and a classifier of their fused maps teach each other.

  Kim et al., "Feature Fusion for Online Mutual Knowledge Distillation", ICPR
  2020, with the settings of the authors' code: gradient flows from the fusion
  module into the peers, targets are constants, and the module has a weight
  decay of its own.

  Attributes:
    temperature: temperature of all distillation terms.
    kd_weight: weight of all distillation terms, which the ramp-up multiplies.
    eps: constant added to the softened target probabilities; 1e-7 in the
      authors' code.
    fusion_weight_decay: weight decay of the fusion module's parameters.
    stop_gradient_maps: whether the maps that are fused are treated as
      constants, so that the fused classifier does not train the peers.
  """

  temperature: float = core.positive(3.0)
  kd_weight: float = core.at_least(1.0, 0)
  eps: float = core.between(0.0, 0, 1)
  fusion_weight_decay: float = core.at_least(1e-5, 0)
  stop_gradient_maps: bool = core.flag(False, added=True)

  @property
  def min_peers(self):
    return 2

  @property
  def optimizer_overrides(self):
    return {"method/fusion": {"weight_decay": self.fusion_weight_decay}}

  @nn.compact
  def __call__(self, outputs, batch, ctx):
    core.require_peers("ffl", outputs, self.min_peers)
    maps = tuple(_feature_maps.of_stages("ffl", outputs)[-1])
    if self.stop_gradient_maps:
      maps = jax.lax.stop_gradient(maps)
    fusion = Fusion(outputs.logits.shape[-1], name="fusion")
    fused = fusion(maps, train=ctx.train)[1]
    terms = losses.ffl(
      outputs.logits,
      fused,
      batch.target,
      temperature=self.temperature,
      kd_weight=self.kd_weight * ctx.rampup,
      eps=self.eps,
    )
    return core.MethodOutput(terms, {"fused": fused})
