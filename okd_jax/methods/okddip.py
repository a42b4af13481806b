"""OKDDip: online knowledge distillation with diverse peers."""

from typing import Any

from flax import linen as nn
import jax.numpy as jnp

from okd_jax import core, layers, losses


class Method(core.Method):
  """Peers learn from attention over each other, the leader from all of them.

  Chen et al., "Online Knowledge Distillation with Diverse Peers", AAAI 2020.
  All peers but the last are auxiliary: each has a target of its own, the mean
  of all auxiliary predictions weighted by attention between projected features.
  The last peer is the group leader; its target is the plain mean of the
  auxiliary peers. The defaults are those of the authors' code: targets are
  means of logits, and gradient flows through them, which trains the attention.

  Attributes:
    temperature: temperature of both distillation levels.
    kd_weight: weight of both distillation levels, which the ramp-up multiplies.
    eps: constant added to the softened target probabilities if these are made
      from mean logits.
    aggregate: "logits" averages logits; "probs" averages softened
      probabilities, as in the paper.
    stop_gradient: whether targets are treated as constants; the attention then
      learns nothing.
    stop_gradient_values: whether the logits in targets are constants, and the
      attention is trained nevertheless; an extension of the authors' code.
    attend_to_self: whether a peer is part of its own target.
    with_leader: whether the last peer is the group leader; False makes every
      peer auxiliary, for ensembles.
  """

  temperature: float = core.positive(3.0)
  kd_weight: float = core.at_least(1.0, 0)
  eps: float = core.between(1e-7, 0, 1)
  aggregate: str = core.one_of("logits", "logits", "probs")
  stop_gradient: bool = core.flag(False)
  stop_gradient_values: bool = core.flag(False, added=True)
  attend_to_self: bool = core.flag(True, added=True)
  with_leader: bool = core.flag(True)

  @property
  def deployed_as(self):
    return "leader" if self.with_leader else "first peer"

  @property
  def leader(self):
    return -1 if self.with_leader else 0

  @property
  def joint(self):
    return not self.stop_gradient

  @property
  def min_peers(self):
    return 2 if self.attend_to_self else 2 + self.with_leader

  def members(self, num_peers):
    return tuple(range(num_peers - self.with_leader))

  @nn.compact
  def __call__(self, outputs, batch, ctx):
    core.require_peers("okddip", outputs, self.min_peers)
    num_auxiliary = len(self.members(outputs.logits.shape[0]))
    auxiliary = outputs.features[:num_auxiliary]
    width = max(1, min(f.shape[-1] for f in auxiliary) // 8)
    queries = _project(auxiliary, width, "query")
    keys = _project(auxiliary, width, "key")
    terms = losses.okddip(
      outputs.logits[:num_auxiliary],
      outputs.logits[-1] if self.with_leader else None,
      queries,
      keys,
      batch.target,
      temperature=self.temperature,
      kd_weight=self.kd_weight * ctx.rampup,
      eps=self.eps,
      aggregate=self.aggregate,
      stop_gradient=self.stop_gradient,
      stop_gradient_values=self.stop_gradient_values,
      attend_to_self=self.attend_to_self,
    )
    attention = losses.peer_attention(
      queries, keys, attend_to_self=self.attend_to_self
    )
    return core.MethodOutput(
      terms, summaries={"attention": jnp.mean(attention, 1)}
    )


def _project(features: core.PerPeer, width: int, name: str) -> Any:
  """Projects features to `width`; peers of equal width share the weights."""

  def dense(suffix=""):
    return nn.Dense(
      width,
      use_bias=False,
      kernel_init=layers.uniform_fan_in,
      precision="highest",
      name=name + suffix,
    )

  if not isinstance(features, tuple):
    return dense()(features)
  by_width = {
    size: dense(f"_{size}") for size in {f.shape[-1]: None for f in features}
  }
  return jnp.stack([by_width[f.shape[-1]](f) for f in features])
