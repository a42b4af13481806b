"""MCL: mutual contrastive learning."""

from flax import linen as nn
import jax.numpy as jnp

from okd_jax import core, layers, losses


class Method(core.Method):
  """Peers contrast the classes of a batch, and learn each other's contrasts.

  Yang et al., "Mutual Contrastive Learning for Visual Representation Learning",
  AAAI 2022. Every peer has a head of two linear layers that turns its features
  into unit vectors; heads are not deployed. Images of the same class in the
  batch are each other's positives, so a batch must hold several images of each
  class: `config.data.per_class=2`; an image that is alone in its class is left
  out of the contrast. There is no ramp-up. The weights are those that the
  authors' code has for every network.

  Attributes:
    embedding_size: size of the unit vectors.
    nce_temperature: temperature of the similarities of two images.
    temperature: temperature of the distillation between peers.
    vcl_weight: weight of the contrast within a peer (VCL).
    soft_vcl_weight: weight of learning from the other peers' VCL.
    icl_weight: weight of the contrast between two peers (ICL).
    soft_icl_weight: weight of learning from the ICL as the other peer sees it.
    logit_kd: which peers also learn from the mean of the logits: "off" none,
      "last" the last one, which is then deployed, "all" every peer.
    mask_diagonal: whether soft VCL and soft ICL leave out the similarity of an
      image to itself, which the authors' code keeps.
  """

  embedding_size: int = core.between(128, 1, 2**16)
  nce_temperature: float = core.positive(0.1)
  temperature: float = core.positive(3.0)
  vcl_weight: float = core.at_least(0.1, 0)
  soft_vcl_weight: float = core.at_least(1.0, 0)
  icl_weight: float = core.at_least(0.1, 0)
  soft_icl_weight: float = core.at_least(1.0, 0)
  logit_kd: str = core.one_of("off", "off", "last", "all")
  mask_diagonal: bool = core.flag(False, added=True)

  @property
  def compared(self):
    return "deployed" if self.logit_kd == "last" else "peers_mean"

  @property
  def leader(self):
    return -1 if self.logit_kd == "last" else 0

  @property
  def deployed_as(self):
    return "last peer" if self.logit_kd == "last" else "first peer"

  @property
  def joint(self):
    # The contrast between two peers trains both.
    return True

  @property
  def min_peers(self):
    return 2

  def settings_compared(self, net, teacher_net):
    return {"data.per_class": 2}

  @nn.compact
  def __call__(self, outputs, batch, ctx):
    core.require_peers("mcl", outputs, self.min_peers)
    soft = batch.target.ndim == 2
    labels = jnp.argmax(batch.target, -1) if soft else batch.target
    terms = losses.mcl(
      outputs.logits,
      self._embed(outputs.features),
      labels,
      nce_temperature=self.nce_temperature,
      temperature=self.temperature,
      vcl_weight=self.vcl_weight,
      soft_vcl_weight=self.soft_vcl_weight,
      icl_weight=self.icl_weight,
      soft_icl_weight=self.soft_icl_weight,
      logit_kd=self.logit_kd,
      mask_diagonal=self.mask_diagonal,
    )
    if soft:
      # Only the contrast needs classes.
      terms["peer_ce"] = losses.cross_entropy(outputs.logits, batch.target)
    return core.MethodOutput(terms)

  def _embed(self, features):
    """Unit vectors [P, B, d]; every peer has a head of its own."""
    width, raw = self.embedding_size, []
    for i, own in enumerate(features):
      hidden = nn.relu(layers.linear(own, width, name=f"hidden_{i}"))
      raw.append(layers.linear(hidden, width, name=f"head_{i}"))
    return layers.unit_vectors(layers.at_least_float32(jnp.stack(raw)))
