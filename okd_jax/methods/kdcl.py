"""KDCL: online knowledge distillation via collaborative learning."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from okd_jax import core, losses


class Method(core.Method):
  """Peers, which may differ, learn from one target made from all their logits.

  Guo et al., "Online Knowledge Distillation via Collaborative Learning", CVPR
  2020. Every peer sees its own view of the images; there is no ramp-up.

  Attributes:
    temperature: temperature of the distillation.
    kd_weight: weight of the distillation.
    rule: how the target is made: "naive" takes the peer with the lowest
      cross-entropy; "linear" the best convex combination; "minlogit" the lowest
      logits; "general" weights that minimise the error on held-out training
      data, computed anew once an epoch.
    linear_scope: whether rule "linear" weighs the peers for every "sample" by
      itself or for the whole "batch"; the paper leaves it open.
    clip_weights: whether negative weights of rule "general" become 0, and the
      others are divided by their sum.
    views: whether every peer has an augmented view of its own, instead of one
      for all.
  """

  temperature: float = core.positive(2.0)
  kd_weight: float = core.at_least(1.0, 0)
  rule: str = core.one_of("minlogit", "naive", "linear", "minlogit", "general")
  linear_scope: str = core.one_of("sample", "sample", "batch", added=True)
  clip_weights: bool = core.flag(False, added=True)
  views: bool = core.flag(True)

  @property
  def needs(self):
    held_out = 0.1 if self.rule == "general" else 0.0
    return core.Needs(views=self.views, held_out=held_out)

  @property
  def min_peers(self):
    return 2

  def refresh(self, logits, labels):
    probs = jax.nn.softmax(logits)
    # Equal peers make the correlation singular.
    weights = losses.kdcl_general_weights(
      probs, labels, ridge=1e-8, clip=self.clip_weights
    )
    return {"weights": {"peers": weights}}

  @nn.compact
  def __call__(self, outputs, batch, ctx):
    core.require_peers("kdcl", outputs, self.min_peers)
    target = self._target(outputs.logits, batch.target)
    terms = losses.kdcl(
      outputs.logits,
      target,
      batch.target,
      temperature=self.temperature,
      kd_weight=self.kd_weight,
    )
    return core.MethodOutput(terms)

  def _target(self, logits, labels):
    if self.rule == "naive":
      return losses.kdcl_naive_target(logits, labels)
    if self.rule == "linear":
      return losses.kdcl_linear_target(logits, labels, scope=self.linear_scope)
    if self.rule == "minlogit":
      return losses.kdcl_minlogit_target(logits, labels)
    num_peers = len(logits)
    equal = jnp.full(num_peers, 1 / num_peers, logits.dtype)
    weights = self.variable("weights", "peers", lambda: equal)
    return losses.kdcl_general_target(logits, weights.value)
