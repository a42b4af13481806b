"""Independent training: cross-entropy alone."""

from okd_jax import core, losses


class Method(core.Method):
  """Every peer learns from the labels alone.

  One replica is the baseline of all papers; branches are "Ind" of Chen et
  al., "Online Knowledge Distillation with Diverse Peers", AAAI 2020.
  """

  @property
  def alone(self):
    return True

  @property
  def compared(self):
    # As Chen et al., AAAI 2020.
    return "peers_mean"

  def __call__(self, outputs, batch, ctx):
    return core.MethodOutput(
      {"peer_ce": losses.cross_entropy(outputs.logits, batch.target)}
    )
