"""PCL: peer collaborative learning."""

from flax import linen as nn
import jax.numpy as jnp

from okd_jax import core, layers, losses


class Method(core.Method):
  """An ensemble classifier and the others' averages over time teach each peer.

  Wu and Gong, "Peer Collaborative Learning for Online Knowledge Distillation",
  AAAI 2021, equations 1 and 2. Every peer and its average over time see the
  same view of the images, which differs from peer to peer; the features of all
  views enter one linear classifier. The averaged first peer is deployed; the
  prediction "ensemble_classifier" of the averages is PCL-E.

  Attributes:
    temperature: temperature of both distillation terms.
    kd_weight: weight of both distillation terms, which the ramp-up multiplies.
    stop_gradient: whether the ensemble is treated as a constant where it is the
      target.
    views: whether every peer has an augmented view of its own, instead of one
      for all.
    ema_decay: upper limit of the decay of the averages over time, see
      `schedules.ema_decay`.
    ema_bn: statistics of the averages' batch norms: their "own", as in the
      authors' code, or the "average" of the peers', with which they then teach.
  """

  temperature: float = core.positive(3.0)
  kd_weight: float = core.at_least(1.0, 0)
  stop_gradient: bool = core.flag(True)
  views: bool = core.flag(True)
  ema_decay: float = core.between(0.999, 0, 1)
  ema_bn: str = core.one_of("own", "own", "average", added=True)

  @property
  def deployed_as(self):
    return "averaged first peer"

  @property
  def published_kind(self):
    return "branches"

  @property
  def needs(self):
    return core.Needs(
      views=self.views,
      ema_decay=self.ema_decay,
      average_statistics=self.ema_bn == "average",
    )

  @property
  def joint(self):
    return not self.stop_gradient

  @property
  def min_peers(self):
    return 2

  @nn.compact
  def __call__(self, outputs, batch, ctx):
    core.require_peers("pcl", outputs, self.min_peers)
    joined = jnp.concatenate(tuple(outputs.features), -1)
    num_classes = outputs.logits.shape[-1]
    ensemble = layers.linear(joined, num_classes, name="ensemble")
    terms = losses.pcl(
      outputs.logits,
      ensemble,
      outputs.ema.logits,
      batch.target,
      temperature=self.temperature,
      kd_weight=self.kd_weight * ctx.rampup,
      stop_gradient=self.stop_gradient,
    )
    return core.MethodOutput(terms, {"ensemble_classifier": ensemble})
