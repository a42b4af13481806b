"""Independent training: the loss of the targets alone."""

from okd_jax import core, losses
from okd_jax.methods import _heat_maps


class Method(core.Method):
  """Every peer learns from the targets alone.

  One replica is the baseline of all papers; branches are "Ind" of Chen et
  al., "Online Knowledge Distillation with Diverse Peers", AAAI 2020. With heat
  maps the outputs of all stacks learn the target.
  """

  @property
  def tasks(self):
    return (self.task, _heat_maps.TASK)

  @property
  def alone(self):
    return True

  @property
  def compared(self):
    # As Chen et al., AAAI 2020.
    return "peers_mean"

  def __call__(self, outputs, batch, ctx):
    if isinstance(batch.target, dict):
      terms = _heat_maps.supervised("independent", outputs, batch)
      return core.MethodOutput(terms)
    return core.MethodOutput(
      {"peer_ce": losses.cross_entropy(outputs.logits, batch.target)}
    )
